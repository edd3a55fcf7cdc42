//! Built without snapshots: every process relocates for itself.

use std::ffi::OsStr;

use super::bind::{self, Bound, Noted, Scope};
use super::enter::Planned;
use super::help::HostHelp;
use super::map::Mapped;
use crate::error::Error;
use crate::file::{BuildId, Home};
use crate::find::again::Before;
use crate::load::group::Group;
use crate::load::map::Place;
use crate::loader::Wishes;
use crate::process::module::Object;
use crate::process::world::Look;
use crate::sys::RegularFile;

/// What can be wished for: nothing.
#[derive(Clone, Default)]
pub(crate) struct Wish;

/// What has come of it.
#[derive(Clone, Default)]
pub(crate) enum Shared {
    #[default]
    Unasked,
}

/// Where the members of a group shall lie: anywhere.
pub(crate) struct Placed;

/// What is shared with other processes: nothing.
pub(crate) struct Sharing;

impl Placed {
    pub(super) fn of(&self, _member: usize) -> Place<'_> {
        Place::default()
    }
}

impl Sharing {
    pub(crate) fn wished(_wishes: &Wishes) -> Self {
        Self
    }

    pub(crate) fn trail(&mut self, _name: &OsStr, _wishes: &Wishes, _look: &Look) -> Option<Before<Object>> {
        None
    }

    pub(crate) fn home(&self, _file: &RegularFile, _build_id: BuildId<'_>, _len: u64) -> Option<Home> {
        None
    }

    pub(crate) fn place(&mut self, _group: &Planned, _scope: &Scope, _look: &Look, _help: &HostHelp) -> Placed {
        Placed
    }

    pub(crate) fn gives_up(&mut self, _error: &Error) -> bool {
        false
    }

    pub(crate) fn distrusts(&mut self, _error: &Error) -> bool {
        false
    }

    pub(crate) fn relocate(
        &mut self,
        group: Group<Object, Box<Mapped>>,
        scope: Scope,
        _placed: Placed,
        look: &Look,
    ) -> Result<Option<Bound>, Error> {
        bind::relocate(group, scope, look, Noted::Nothing).map(Some)
    }

    pub(crate) fn outcome(self) -> Shared {
        Shared::Unasked
    }
}
