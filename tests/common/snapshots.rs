//! What tests of snapshots share: where they are, and what may have come of one.

use std::path::PathBuf;

use soload::SnapshotUse;

use super::scratch;

/// It was missing, and has been made on the way.
pub(crate) const MADE: SnapshotUse = SnapshotUse::Used { made: true };
pub(crate) const USED: SnapshotUse = SnapshotUse::Used { made: false };

pub(crate) fn directory() -> PathBuf {
    scratch().join("snapshots")
}
