//! The objects that one open brings in, as one value that moves through the stages of loading.

use crate::error::Error;
pub(crate) use crate::find::graph::Slot;
use crate::find::needs::Needs;

/// A group at stage `T`. Dropping it undoes whatever its members have done.
pub(crate) struct Group<K, T> {
    /// In breadth-first order; member 0 is the object that was asked for.
    pub(crate) members: Vec<Slot<K, T>>,
    pub(crate) needs: Needs,
    /// The numbers of the members, each after those it needs, as constructors run: see [`init_order`].
    pub(crate) order: Vec<usize>,
}

impl<K, T> Group<K, T> {
    pub(crate) fn new(members: Vec<Slot<K, T>>, needs: Needs) -> Self {
        let order = init_order(&needs);
        Self { members, needs, order }
    }

    /// Takes every new member to the next stage, or none.
    pub(crate) fn advance<U>(self, mut step: impl FnMut(usize, T) -> Result<U, Error>) -> Result<Group<K, U>, Error> {
        let mut members = Vec::with_capacity(self.members.len());
        for (index, member) in self.members.into_iter().enumerate() {
            members.push(match member {
                Slot::Known(known) => Slot::Known(known),
                Slot::New(new) => Slot::New(step(index, new)?),
            });
        }
        Ok(Group { members, needs: self.needs, order: self.order })
    }

    /// The new members with their numbers.
    pub(crate) fn new_members(&self) -> impl Iterator<Item = (usize, &T)> {
        self.members.iter().enumerate().filter_map(|(index, member)| match member {
            Slot::New(new) => Some((index, new)),
            Slot::Known(_) => None,
        })
    }

    /// The same, to be changed.
    pub(crate) fn new_members_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.members.iter_mut().filter_map(|member| match member {
            Slot::New(new) => Some(new),
            Slot::Known(_) => None,
        })
    }
}

/// An order in which each object comes after those it needs; in a circle, the one found later comes first.
///
/// glibc 2.36 (`_dl_sort_maps`, the depth-first sort): the objects are visited from the last found to the first, each
/// after what it needs, in the order of its `DT_NEEDED`; but the object that was asked for is the last, and what it needs
/// itself is not known then.
pub(crate) fn init_order(needs: &Needs) -> Vec<usize> {
    let mut order = depth_first((1..needs.len()).rev(), needs, 1);
    order.extend((needs.len() > 0).then_some(0));
    order
}

/// The order in which objects go that are given in the order in which they came: each before those it `needs`, and, as
/// far as that permits, before those that it merely refers to (`uses` are both).
///
/// glibc 2.36 (`_dl_sort_maps` again): by all uses first, and what that gives by needs alone, if these are not all.
pub(crate) fn fini_order(uses: &Needs, needs: &Needs) -> Vec<usize> {
    let mut order = depth_first((0..uses.len()).rev(), uses, 0);
    if (0..uses.len()).any(|object| uses.of(object).len() > needs.of(object).len()) {
        order = depth_first(order, needs, 0);
    }
    order.reverse();
    order
}

/// The objects in the order in which visits to all that `roots` lead to end, each once; not those before number `first`.
fn depth_first(roots: impl IntoIterator<Item = usize>, needs: &Needs, first: usize) -> Vec<usize> {
    let mut order = Vec::with_capacity(needs.len());
    let mut seen: Vec<bool> = (0..needs.len()).map(|object| object < first).collect();
    // A stack of our own: the depth is the file's to choose.
    let mut stack: Vec<(usize, usize)> = Vec::new();
    for root in roots {
        if !std::mem::replace(&mut seen[root], true) {
            stack.push((root, 0));
        }
        while let Some((object, next)) = stack.last_mut() {
            match needs.of(*object).get(*next) {
                Some(&need) => {
                    *next += 1;
                    if !std::mem::replace(&mut seen[need], true) {
                        stack.push((need, 0));
                    }
                }
                None => {
                    order.push(*object);
                    stack.pop();
                }
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::{Needs, init_order};

    fn order(lists: &[Vec<usize>]) -> Vec<usize> {
        let mut needs = Needs::default();
        for list in lists {
            list.iter().for_each(|needed| needs.push(*needed));
            needs.end();
        }
        init_order(&needs)
    }

    #[test]
    fn each_object_comes_after_those_it_needs() {
        // 0 needs 1 and 2, both need 3.
        assert_eq!(order(&[vec![1, 2], vec![3], vec![3], vec![]]), [3, 2, 1, 0]);
    }

    #[test]
    fn a_circle_is_broken_at_the_object_found_last() {
        assert_eq!(order(&[vec![1], vec![2], vec![1]]), [1, 2, 0]);
    }

    #[test]
    fn the_object_that_was_asked_for_is_last_even_in_a_circle() {
        assert_eq!(order(&[vec![1], vec![0]]), [1, 0]);
    }

    #[test]
    fn a_chain_of_any_depth_needs_no_stack() {
        let chain: Vec<Vec<usize>> =
            (1..=100_000).map(|next| if next < 100_000 { vec![next] } else { vec![] }).collect();
        assert_eq!(order(&chain)[0], 99_999);
    }
}
