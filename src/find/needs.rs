//! Who needs whom in a group, as one list.

/// For each member the numbers of those it needs, in the order of `DT_NEEDED`.
#[derive(Clone, Default)]
pub(crate) struct Needs {
    /// One member's behind the other's.
    all: Vec<usize>,
    ends: Vec<usize>,
}

impl Needs {
    /// Notes one that the member which is next needs.
    pub(crate) fn push(&mut self, needed: usize) {
        self.all.push(needed);
    }

    /// That was all that it needs.
    pub(crate) fn end(&mut self) {
        self.ends.push(self.all.len());
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn of(&self, member: usize) -> &[usize] {
        let start = if member == 0 { 0 } else { self.ends[member - 1] };
        &self.all[start..self.ends[member]]
    }
}
