//! Another attempt at the same open, in this process or another one: what is known is gone through as before.

use std::mem;
use std::os::unix::ffi::OsStrExt;

use super::graph::{Discovery, Graph, Slot, World, lacking};
use crate::error::Error;

/// What an open has come to before; the next attempt goes by it.
pub(crate) enum Before<O> {
    /// An attempt that lacked parts of the C library, which the host has brought since.
    Lacked(Graph<O>),
    /// The open of another process, which had parts that may be lacking here.
    #[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
    Elsewhere(Graph<O>),
}

impl<O> Before<O> {
    /// The same with what is there now; `None` if some of it is not, if what was new is there by now (as what a part needs that
    /// the host has brought), by its file or its name, or if nothing has been found.
    pub(super) fn now(self, world: &impl World<Object = O>) -> Option<Graph<O>> {
        let (Self::Lacked(mut graph) | Self::Elsewhere(mut graph)) = self;
        if graph.members.is_empty() {
            return None;
        }
        for member in &mut graph.members {
            match member {
                Slot::Known(object) => *object = world.still(object)?,
                Slot::New(new) => {
                    let (file, image) = (new.image.identity(), &*new.image);
                    let mut names = new.names.iter().map(|name| &**name).chain(image.soname());
                    let is_there = world.by_identity(file).or_else(|| world.of_host(file, Some(image))).is_some();
                    if is_there || names.any(|name| world.by_name(name).is_some()) {
                        return None;
                    }
                }
            }
        }
        Some(graph)
    }
}

/// A member as it was found before, until it joins; its number from then on.
enum Member<O> {
    Waiting(Slot<O>),
    Joined(usize),
}

/// The members of the attempt before, by their numbers then.
struct Members<O> {
    all: Vec<Member<O>>,
    /// The numbers, now and then, of those that have to be loaded: in order.
    new: Vec<(usize, usize)>,
}

impl<O: Clone> Members<O> {
    /// The number that member number `then` has now; `None` if it was lacking.
    fn join<W: World<Object = O>>(
        &mut self,
        discovery: &mut Discovery<'_, W>,
        then: usize,
        asker: Option<usize>,
    ) -> Option<usize> {
        let member = self.all.get_mut(then)?;
        let now = match mem::replace(member, Member::Joined(0)) {
            Member::Joined(now) => now,
            Member::Waiting(object) => {
                let is_new = matches!(object, Slot::New(_));
                let now = discovery.join(object, asker);
                if is_new {
                    self.new.push((now, then));
                }
                now
            }
        };
        *member = Member::Joined(now);
        Some(now)
    }
}

impl<W: World> Discovery<'_, W> {
    /// Finds what the attempt before this one has found, in that order, and what was lacking then.
    pub(super) fn again(&mut self, before: Graph<W::Object>) -> Result<(), Error> {
        let Graph { members, needs, for_host } = before;
        let mut members = Members { all: members.into_iter().map(Member::Waiting).collect(), new: Vec::new() };
        members.join(self, 0, None);
        let (mut next, mut passed) = (0, 0);
        while next < self.graph.members.len() {
            match members.new.get(passed) {
                Some(&(now, then)) if now == next => {
                    passed += 1;
                    for number in needs.of(then) {
                        match members.join(self, *number, Some(next)) {
                            Some(now) => self.graph.needs.push(now),
                            None => self.needs(for_host[lacking(*number)].as_os_str().as_bytes(), next)?,
                        }
                    }
                    self.graph.needs.end();
                }
                // What was there, and what was lacking, with all that it needs.
                _ => self.needs_of(next)?,
            }
            next += 1;
        }
        Ok(())
    }
}
