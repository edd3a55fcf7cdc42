//! How many pages of memory several processes really use for the same range of an image.

use std::collections::HashSet;

use super::pages::{Page, PageMap, PageState};

/// What the same range of pages costs several processes together, in pages.
///
/// ```
/// use soload::{Addr, PageMap, Sharing};
/// let code = PageMap::of_range as *const () as usize;
/// let map = PageMap::of_range(Addr(code)..Addr(code + 1))?;
/// let twice = Sharing::of(&[&map, &map]);
/// assert_eq!((twice.mapped, twice.resident, twice.copied), (2, 2, 0));
/// assert!(twice.frames == 1 || twice.estimated);
/// # Ok::<(), soload::ErrorKind>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sharing {
    /// Pages of address space, of all processes.
    pub mapped: u64,
    /// Of these, pages that memory is behind: what `Rss` counts.
    pub resident: u64,
    /// Of these, copies of the process's own.
    pub copied: u64,
    /// Of these, copies that no other process has: each process needs that memory anew. After a fork, parent and child
    /// have copies together until one of them writes.
    pub own: u64,
    /// Different pages of memory.
    pub frames: u64,
    /// Whether `frames` is an estimate, because the kernel did not tell frame numbers (it tells the superuser): a page
    /// that some other process has mapped as well is taken to be the same one in all of these processes.
    pub estimated: bool,
}

impl Sharing {
    /// Counts the pages of one range, as each process has it.
    #[must_use]
    pub fn of(processes: &[&PageMap]) -> Self {
        let all = || processes.iter().flat_map(|map| &map.pages);
        let is_resident = |page: &&Page| !matches!(page.state, PageState::Untouched | PageState::Swapped);
        let resident = all().filter(is_resident).count() as u64;
        let frames: HashSet<_> = all().filter_map(|page| page.frame).collect();
        let estimated = all().filter(is_resident).any(|page| page.frame.is_none());
        Self {
            mapped: all().count() as u64,
            resident,
            copied: all().filter(|page| page.state == PageState::Copied).count() as u64,
            own: all().filter(|page| page.state == PageState::Copied && page.exclusive).count() as u64,
            frames: if estimated { estimate(processes) } else { frames.len() as u64 },
            estimated,
        }
    }

    /// How many mapped pages there are for each page of memory; 1 where nothing is shared.
    ///
    /// ```
    /// assert_eq!(soload::Sharing::default().factor(), None);
    /// ```
    #[must_use]
    pub fn factor(&self) -> Option<f64> {
        (self.frames > 0).then(|| self.resident as f64 / self.frames as f64)
    }

    /// Both together.
    ///
    /// ```
    /// let nothing = soload::Sharing::default();
    /// assert_eq!(nothing.and(nothing), nothing);
    /// ```
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            mapped: self.mapped + other.mapped,
            resident: self.resident + other.resident,
            copied: self.copied + other.copied,
            own: self.own + other.own,
            frames: self.frames + other.frames,
            estimated: self.estimated || other.estimated,
        }
    }
}

/// Each exclusive page is one; of those at one place that are not, one file's page and one parent's copy.
fn estimate(processes: &[&PageMap]) -> u64 {
    let longest = processes.iter().map(|map| map.pages.len()).max().unwrap_or(0);
    let at = |index: usize| processes.iter().filter_map(move |map| map.pages.get(index));
    let frames = (0..longest).map(|index| {
        let exclusive = at(index).filter(|page| page.exclusive).count();
        let shared = |state| usize::from(at(index).any(|page| page.state == state && !page.exclusive));
        exclusive + shared(PageState::Shared) + shared(PageState::Copied)
    });
    frames.sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::addr::{Addr, PageSize};

    fn map(pages: &[(PageState, bool, u64)]) -> PageMap {
        let page = |&(state, exclusive, frame)| Page { state, exclusive, frame: NonZeroU64::new(frame), huge: false };
        let size = const { PageSize::new(4096).unwrap() };
        PageMap { page: size, start: Addr(0), pages: pages.iter().map(page).collect() }
    }

    #[test]
    fn frames_are_counted_once_however_many_processes_have_them() {
        use PageState::{Copied, Shared, Untouched};
        let one = map(&[(Shared, false, 7), (Copied, true, 8), (Untouched, false, 0)]);
        let two = map(&[(Shared, false, 7), (Copied, true, 9), (Shared, false, 10)]);
        let sharing = Sharing::of(&[&one, &two]);
        assert_eq!((sharing.mapped, sharing.resident, sharing.copied), (6, 5, 2));
        assert_eq!((sharing.frames, sharing.estimated), (4, false));
        assert_eq!(sharing.factor(), Some(1.25));
    }

    #[test]
    fn without_frame_numbers_what_is_not_exclusive_counts_as_one() {
        use PageState::{Copied, Exclusive, Shared};
        let one = map(&[(Shared, false, 0), (Copied, true, 0), (Copied, false, 0)]);
        let two = map(&[(Shared, false, 0), (Exclusive, true, 0), (Copied, false, 0)]);
        let sharing = Sharing::of(&[&one, &two]);
        assert_eq!((sharing.frames, sharing.estimated), (1 + 2 + 1, true));
    }

    #[test]
    fn copies_that_parent_and_child_have_together_are_nobody_s_own() {
        use PageState::Copied;
        let parent = map(&[(Copied, false, 7), (Copied, true, 8)]);
        let child = map(&[(Copied, false, 7), (Copied, true, 9)]);
        let sharing = Sharing::of(&[&parent, &child]);
        assert_eq!((sharing.copied, sharing.own, sharing.frames), (4, 2, 3));
    }
}
