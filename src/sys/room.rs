//! Rooms: ranges of addresses that belong to one object each, and files shown where the object is going to be.
//!
//! # Safety
//! A [`Reservation`] is a range of addresses that nobody else uses; what is mapped is mapped inside one, or behind it where
//! the kernel finds nothing, so no call here can change memory of the rest of the program.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};

use super::{Bytes, RegularFile, fault, page_size};
use crate::addr::{Addr, PageSize, Protection};
use crate::error::ErrorKind;

/// Where the last room begins. The kernel goes on mapping below, and so can we, mostly: what is mapped there need not be as
/// large as the object at once.
static LAST: AtomicUsize = AtomicUsize::new(0);

/// The room that a file is shown in, bytes of address space.
pub(crate) struct Room {
    pub(crate) len: u64,
    /// What it starts at a multiple of.
    pub(crate) align: PageSize,
    /// How many of them come before all that may be written: these show the file from its start on.
    pub(crate) constant: u64,
}

/// A piece of an object as it is mapped in the end: whole pages, counted from its first.
pub(crate) struct Piece {
    pub(crate) range: Range<u64>,
    /// Where its bytes begin in the file; `None`: they are zeroes.
    pub(crate) from: Option<u64>,
    pub(crate) protection: Protection,
}

impl RegularFile {
    /// Maps all `pieces` of an object: up to `room.constant` they lie as far in as in the file, and are never written; the
    /// others follow one another from there on. Where that is hard nothing is done, and the file is to be shown.
    ///
    /// The code becomes executable before anything of it is touched: to change pages that are there costs more.
    pub(crate) fn map_pieces(&self, room: &Room, pieces: impl Iterator<Item = Piece> + Clone) -> Option<Shown> {
        // Old linkers make all that is constant executable: it is mapped so in one call.
        let shown = pieces.clone().next()?.protection;
        let map = |there: Reservation| {
            let mut there = room.constant_pieces(there, shown, pieces.clone())?;
            for piece in pieces.clone().filter(|piece| piece.range.end > room.constant) {
                let (at, len) = (piece.range.start, piece.range.end - piece.range.start);
                match piece.from {
                    Some(from) => there.map_file(at, len, piece.protection, &self.fd, from, false),
                    None => there.map_zeros(at, len, piece.protection),
                }
                .ok()?;
            }
            Some(there)
        };
        let below = || map(self.show_at(room.below_last()?, room.constant, room.align, shown)?);
        let there = below().or_else(|| map(self.show_somewhere(room, shown).ok()?))?;
        LAST.store(there.start().0, Ordering::Relaxed);
        self.shown(room, there, Laid::Whole)
    }

    /// Maps those of `pieces` that are constant at `home`, if nothing is there: what the kernel needs for one call is at hand
    /// then for the next. The room grows when the rest is mapped.
    pub(crate) fn map_constant(
        &self,
        room: &Room,
        home: Addr,
        pieces: impl Iterator<Item = Piece> + Clone,
    ) -> Option<Shown> {
        let shown = pieces.clone().next()?.protection;
        let there = self.show_at(home, room.constant, room.align, shown)?;
        self.shown(room, room.constant_pieces(there, shown, pieces)?, Laid::Constant)
    }

    fn shown(&self, room: &Room, there: Reservation, laid: Laid) -> Option<Shown> {
        let (from_file, constant) = (usize::try_from(self.size.min(room.constant)).ok()?, room.constant);
        Some(Shown { room: Arc::new(there), from_file, constant, laid })
    }

    /// Shows the file, read-only, in the first of the room's bytes. If it has a home, and that is free, it is shown there, and
    /// no more of it than is constant: the room grows when the rest is mapped.
    pub(crate) fn show(&self, room: &Room, home: Option<Addr>) -> Result<Shown, ErrorKind> {
        let at_home = |home| self.show_at(home, room.constant.min(room.len), room.align, Protection::READ);
        let there = home.and_then(at_home).map_or_else(|| self.show_somewhere(room, Protection::READ), Ok)?;
        let from_file = usize::try_from(self.size).unwrap_or(usize::MAX).min(there.len());
        Ok(Shown { room: Arc::new(there), from_file, constant: room.constant, laid: Laid::Nothing })
    }

    /// Where the kernel likes, if it is aligned there.
    fn show_somewhere(&self, room: &Room, protection: Protection) -> Result<Reservation, ErrorKind> {
        let no_room = |errno: Errno| ErrorKind::NoRoom { bytes: room.len, errno: errno as i32 };
        let there = self.map_start(None, room.len, protection).map_err(no_room)?;
        // The kernel puts large files where huge pages fit: mostly that is enough.
        if room.align.offset(there.start().0 as u64) == 0 {
            return Ok(there);
        }
        drop(there);
        let mut there = Reservation::new(room.len, room.align)?;
        there.map_file(0, room.len, protection, &self.fd, 0, false)?;
        Ok(there)
    }

    /// At `start`, if nothing is there.
    fn show_at(&self, start: Addr, len: u64, align: PageSize, protection: Protection) -> Option<Reservation> {
        let start = NonZeroUsize::new(start.0).filter(|start| align.offset(start.get() as u64) == 0)?;
        // Before Linux 4.17 the address was a hint.
        self.map_start(Some(start), len, protection).ok().filter(|there| there.start().0 == start.get())
    }

    fn map_start(&self, at: Option<NonZeroUsize>, len: u64, protection: Protection) -> Result<Reservation, Errno> {
        let len = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or(Errno::ENOMEM)?;
        let flags = if at.is_some() { MapFlags::MAP_FIXED_NOREPLACE } else { MapFlags::empty() };
        let start = fault::point("mmap")
            // SAFETY: a new mapping at an address that the kernel chooses, or where nothing is, touches no memory of the
            // program.
            .and_then(|()| unsafe { mmap(at, len, prot(protection), MapFlags::MAP_PRIVATE | flags, &self.fd, 0) })?;
        Ok(Reservation { map: Map { start, len } })
    }
}

impl Room {
    /// Has those of `pieces` that are constant be what they are going to be where the file is shown: all of it may be used as
    /// `shown` says.
    fn constant_pieces(
        &self,
        there: Reservation,
        shown: Protection,
        pieces: impl Iterator<Item = Piece>,
    ) -> Option<Reservation> {
        for piece in pieces.filter(|piece| piece.range.end <= self.constant && piece.protection != shown) {
            there.protect(piece.range.start, piece.range.end - piece.range.start, piece.protection).ok()?;
        }
        Some(there)
    }

    /// A place right below the last one. The kernel finds better ones for code that is large enough for huge pages.
    fn below_last(&self) -> Option<Addr> {
        let of_kernel = self.constant >= PageSize::HUGE.bytes();
        let last = Some(LAST.load(Ordering::Relaxed)).filter(|last| *last > 0 && !of_kernel);
        let start = (last? as u64).checked_sub(self.len)?;
        Some(Addr(self.align.down(start) as usize))
    }
}

/// A file shown where an object is going to be mapped: an object whose first segment begins with the file is read there,
/// and that segment is mapped already.
pub(crate) struct Shown {
    room: Arc<Reservation>,
    /// How many of its bytes are the file's. Those behind must not be touched.
    from_file: usize,
    /// Where that begins which may be written.
    constant: u64,
    laid: Laid,
}

/// How much of an object is mapped already as it is going to be, where its file is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Laid {
    Nothing,
    /// All that is never written.
    Constant,
    Whole,
}

impl Shown {
    /// The file's bytes, as far as there is room for them.
    pub(crate) fn bytes(&self) -> Bytes {
        let owner: Arc<Reservation> = Arc::clone(&self.room);
        // SAFETY: that much of the file is mapped readable. Nothing else is mapped there, nor written, until `into_room`,
        // which nobody gets who has not let go of these bytes.
        unsafe { Bytes::new(self.room.map.start.cast(), self.from_file, owner) }
    }

    /// Bytes that are mapped to be written to, on pages of which each process is going to have a copy: it gets them now. `None`
    /// if they are not mapped so.
    pub(crate) fn copied(&self, range: Range<u64>) -> Option<Bytes> {
        let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        let written = self.laid == Laid::Whole && range.start >= self.constant;
        let inside = written && range.end <= self.room.len() as u64;
        let first =
            NonNull::new((self.room.start().0 + usize::try_from(range.start).ok()?) as *mut u8).filter(|_| inside)?;
        let page = page_size();
        let of_range = |at: &u64| *at < range.end;
        let next = |at: &u64| page.up(at + 1).filter(of_range);
        for at in std::iter::successors(Some(range.start).filter(of_range), next) {
            let byte = first.as_ptr().wrapping_add((at - range.start) as usize).cast::<AtomicU8>();
            // SAFETY: a byte of a mapping of ours that may be written, and that nobody else knows of. Nothing changes but that
            // the page is copied: this is a write to the processor whatever it finds.
            let _ = unsafe { (*byte).compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed) };
        }
        let owner: Arc<Reservation> = Arc::clone(&self.room);
        // SAFETY: from `constant` on the pieces of what is laid whole can all be read, and have no gap (`room::pieces`). Nobody
        // writes there until `into_room`, as in `bytes`.
        Some(unsafe { Bytes::new(first, len, owner) })
    }

    /// The room, for the other segments to be mapped into; `None` as long as somebody holds bytes of it.
    pub(crate) fn into_room(self) -> Option<(Reservation, Laid)> {
        Some((Arc::into_inner(self.room)?, self.laid))
    }
}

/// A mapping that is given back when dropped.
pub(super) struct Map {
    pub(super) start: NonNull<c_void>,
    pub(super) len: NonZeroUsize,
}

// SAFETY: it is a range of addresses; only `Drop` acts on it.
unsafe impl Send for Map {}
// SAFETY: as above; nothing can be done through a shared reference.
unsafe impl Sync for Map {}

impl Drop for Map {
    fn drop(&mut self) {
        // Its place is to be had again.
        let (start, len) = (self.start.as_ptr() as usize, self.len.get());
        let _ = LAST.compare_exchange(start, start + len, Ordering::Relaxed, Ordering::Relaxed);
        // SAFETY: the range was mapped by us and its owner is going away. Failure (a split at the limit of mappings)
        // would only leave it mapped.
        let _ = unsafe { munmap(self.start, self.len.get()) };
    }
}

/// A range of addresses that belongs to one object: whatever is mapped inside goes away with it.
pub(crate) struct Reservation {
    map: Map,
}

impl Reservation {
    /// Reserves `len` bytes of address space, inaccessible, at a multiple of `align`.
    pub(crate) fn new(len: u64, align: PageSize) -> Result<Self, ErrorKind> {
        let page = page_size();
        // Over-reserve so that an aligned start lies inside, then give the rest back.
        let slack = align.bytes().saturating_sub(page.bytes());
        let no_room = |errno: Errno| ErrorKind::NoRoom { bytes: len, errno: errno as i32 };
        let total = len.checked_add(slack).and_then(|total| usize::try_from(total).ok()).and_then(NonZeroUsize::new);
        let total = total.ok_or(no_room(Errno::ENOMEM))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let start = fault::point("mmap")
            // SAFETY: a new mapping at an address the kernel chooses touches no memory of the program.
            .and_then(|()| unsafe { mmap_anonymous(None, total, ProtFlags::PROT_NONE, flags) })
            .map_err(no_room)?;
        let mut map = Map { start, len: total };
        if slack > 0 {
            let first = start.as_ptr() as usize;
            let aligned = align.up(first as u64).map_or(first, |up| up as usize);
            map.keep(aligned - first, len as usize);
        }
        Ok(Self { map })
    }

    /// Reserves exactly the `len` bytes from `start` on. That something else is there already is an error.
    pub(crate) fn at(start: Addr, len: u64) -> Result<Self, ErrorKind> {
        let taken = |errno: Errno| ErrorKind::System { call: "mmap at the session's address", errno: errno as i32 };
        let len = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or(taken(Errno::EINVAL))?;
        // Nothing of ours is where null points to, whatever the kernel would let this process have there.
        let at = NonZeroUsize::new(start.0).ok_or(taken(Errno::EINVAL))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED_NOREPLACE;
        let got = fault::point("mmap")
            // SAFETY: the kernel refuses to replace a mapping; one made before Linux 4.17 takes the address for a hint.
            .and_then(|()| unsafe { mmap_anonymous(Some(at), len, ProtFlags::PROT_NONE, flags) })
            .map_err(taken)?;
        let map = Map { start: got, len };
        if got.as_ptr() as usize == start.0 { Ok(Self { map }) } else { Err(taken(Errno::EEXIST)) }
    }

    /// Moves what is mapped in it to the addresses from `start` on, and with it the pages that have been faulted in.
    pub(crate) fn moved_to(self, start: Addr) -> Result<Self, ErrorKind> {
        let there = Self::at(start, self.len() as u64)?;
        let (from, len) = (self.map.start.as_ptr(), self.len());
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let moved = fault::point("mremap").and_then(|()| {
            // SAFETY: both ranges are ours; nobody has been handed an address in either.
            let moved = unsafe { libc::mremap(from, len, len, flags, there.map.start.as_ptr()) };
            if moved == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
        });
        moved.map_err(|errno| refused("mremap to the session's address", len as u64, errno))?;
        // Nothing is left there to be given back: another thread may have it already.
        std::mem::forget(self);
        Ok(there)
    }

    pub(crate) fn start(&self) -> Addr {
        Addr(self.map.start.as_ptr() as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len.get()
    }

    /// Maps `len` bytes of a file from `from` at `offset` into the reservation, privately: a write copies the page. `copy`: all
    /// pages of it are copied at once, as writing to each would do.
    pub(crate) fn map_file(
        &mut self,
        offset: u64,
        len: u64,
        protection: Protection,
        file: &impl AsFd,
        from: u64,
        copy: bool,
    ) -> Result<(), ErrorKind> {
        let populated = if copy { MapFlags::MAP_POPULATE } else { MapFlags::empty() };
        self.map_with(offset, len, "mmap of a segment", |at, size, flags| {
            let flags = MapFlags::MAP_PRIVATE | flags | populated;
            // SAFETY: `map_with` gives addresses of ours, or demands that nothing is there.
            unsafe { mmap(Some(at), size, prot(protection), flags, file, from as libc::off_t) }
        })
    }

    /// Maps `len` zero bytes at `offset` into the reservation.
    pub(crate) fn map_zeros(&mut self, offset: u64, len: u64, protection: Protection) -> Result<(), ErrorKind> {
        self.map_with(offset, len, "mmap of zero pages", |at, size, flags| {
            // SAFETY: as in `map_file`.
            unsafe { mmap_anonymous(Some(at), size, prot(protection), MapFlags::MAP_PRIVATE | flags) }
        })
    }

    /// Calls `map` with `len` bytes at `offset`: inside, where it replaces nothing but this object's own pages, or from the
    /// end on, where nothing else may be, and which are the reservation's from then on.
    fn map_with(
        &mut self,
        offset: u64,
        len: u64,
        call: &'static str,
        map: impl FnOnce(NonZeroUsize, NonZeroUsize, MapFlags) -> nix::Result<NonNull<c_void>>,
    ) -> Result<(), ErrorKind> {
        let grows = offset == self.len() as u64;
        let behind = NonZeroUsize::new(self.start().0.wrapping_add(self.len())).zip(NonZeroUsize::new(len as usize));
        let (at, size) = behind.filter(|_| grows).map_or_else(|| self.inside(offset, len), Ok)?;
        let flags = if grows { MapFlags::MAP_FIXED_NOREPLACE } else { MapFlags::MAP_FIXED };
        let start = fault::point("mmap").and_then(|()| map(at, size, flags));
        let start = start.map_err(|errno| refused(call, len, errno))?;
        if start.as_ptr() as usize != at.get() {
            // Before Linux 4.17 the address was a hint.
            drop(Map { start, len: size });
            return Err(refused(call, len, Errno::EEXIST));
        }
        if grows {
            self.map.len = self.map.len.checked_add(size.get()).unwrap_or(self.map.len);
        }
        Ok(())
    }

    /// Changes what may be done with `len` bytes at `offset`.
    pub(crate) fn protect(&self, offset: u64, len: u64, protection: Protection) -> Result<(), ErrorKind> {
        let (at, size) = self.inside(offset, len)?;
        let start = NonNull::new(at.get() as *mut c_void).unwrap_or(self.map.start);
        fault::point("mprotect")
            // SAFETY: `inside` proved the range to be ours. Rust references into it exist only for segments that are
            // never written (`load::map`), and those stay readable.
            .and_then(|()| unsafe { mprotect(start, size.get(), prot(protection)) })
            .map_err(|errno| refused("mprotect of a segment", len, errno))
    }

    /// The range as an address and a size, if it lies inside.
    pub(super) fn inside(&self, offset: u64, len: u64) -> Result<(NonZeroUsize, NonZeroUsize), ErrorKind> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len() as u64);
        let at = NonZeroUsize::new(self.start().0.wrapping_add(offset as usize));
        match (end, at, NonZeroUsize::new(len as usize)) {
            (Some(_), Some(at), Some(len)) => Ok((at, len)),
            _ => Err(ErrorKind::Limit { what: "bytes of a reservation", limit: self.len() as u64, found: len }),
        }
    }
}

impl Map {
    /// Gives back all but `len` bytes from `skip` on.
    fn keep(&mut self, skip: usize, len: usize) {
        let (first, total) = (self.start.as_ptr() as usize, self.len.get());
        for (start, size) in [(first, skip), (first + skip + len, total - skip - len)] {
            if let (Some(start), true) = (NonNull::new(start as *mut c_void), size > 0) {
                // SAFETY: both ranges are ends of our own mapping that nobody has used yet. If it fails they stay
                // reserved, which costs nothing but addresses.
                let _ = unsafe { munmap(start, size) };
            }
        }
        if let (Some(start), Some(len)) = (NonNull::new((first + skip) as *mut c_void), NonZeroUsize::new(len)) {
            (self.start, self.len) = (start, len);
        }
    }
}

fn prot(protection: Protection) -> ProtFlags {
    let mut flags = ProtFlags::PROT_NONE;
    flags.set(ProtFlags::PROT_READ, protection.read);
    flags.set(ProtFlags::PROT_WRITE, protection.write);
    flags.set(ProtFlags::PROT_EXEC, protection.execute);
    flags
}

fn refused(call: &'static str, bytes: u64, errno: Errno) -> ErrorKind {
    match errno {
        Errno::ENOMEM => ErrorKind::NoRoom { bytes, errno: errno as i32 },
        errno => ErrorKind::System { call, errno: errno as i32 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_where_null_points_to() {
        let refused = Reservation::at(Addr(0), page_size().bytes()).map(|room| room.start());
        assert!(matches!(refused, Err(ErrorKind::System { errno: libc::EINVAL, .. })), "{refused:?}");
    }
}
