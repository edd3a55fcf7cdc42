//! The tables of an object that the C library has loaded, where they are in memory.
//!
//! # Safety
//! What is read here is memory of other objects: only inside segments that the program headers name, and only while whoever
//! asks keeps the object loaded.

use std::ops::Range;
use std::ptr::NonNull;

use crate::addr::{Addr, Bias, Protection, Vaddr};
use crate::file::Source;
use crate::file::dynamic::{Dynamic, is_address};
use crate::file::view::{ByteOrder, Class, View};
use crate::sys::Bytes;

/// Entries of a dynamic section in memory.
const DYNAMIC_MAX: usize = 65_536;

/// Which addresses of an object's file are in memory, and how.
pub(super) type Segments = Vec<(Range<u64>, Protection)>;

/// The `PT_LOAD` segments.
pub(super) fn segments(headers: &[libc::Elf64_Phdr]) -> Segments {
    let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let mut segments = Vec::with_capacity(loaded().count());
    segments.extend(loaded().map(|header| {
        let flag = |flag| header.p_flags & flag != 0;
        let protection = Protection { read: flag(libc::PF_R), write: flag(libc::PF_W), execute: flag(libc::PF_X) };
        (header.p_vaddr..header.p_vaddr + header.p_memsz, protection)
    }));
    segments
}

/// An object's memory.
pub(super) struct Loaded<'a> {
    pub(super) bias: Bias,
    pub(super) segments: &'a Segments,
}

impl Loaded<'_> {
    /// The dynamic section.
    pub(super) fn dynamic(&self, headers: &[libc::Elf64_Phdr]) -> Option<Dynamic> {
        let bias = self.bias;
        let dynamic = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC)?;
        let table = self.table(Vaddr(dynamic.p_vaddr), Some(dynamic.p_memsz))?;
        let (words, _) = table.bytes().as_chunks::<{ size_of::<usize>() }>();
        let entries = words.as_chunks().0.iter().take(DYNAMIC_MAX);
        let entries = entries
            .map(|entry: &[_; 2]| entry.map(|word| usize::from_ne_bytes(word) as u64))
            .map(|[tag, value]| (tag, value))
            .take_while(|(tag, _)| *tag != 0)
            // glibc has added the bias to some of the addresses in place; no address of an object is as large as that.
            .map(|(tag, value)| match bias.get() != 0 && value >= bias.get() as u64 && is_address(tag) {
                true => (tag, bias.vaddr(Addr(value as usize)).0),
                false => (tag, value),
            });
        Dynamic::collect(entries).ok()
    }
}

impl Source for Loaded<'_> {
    fn table(&self, vaddr: Vaddr, len: Option<u64>) -> Option<View> {
        let (range, _) = self.segments.iter().find(|(range, flags)| flags.read && range.contains(&vaddr.0))?;
        let follows = range.end - vaddr.0;
        let len = len.unwrap_or(follows);
        let start = NonNull::new(self.bias.at(vaddr).0 as *mut u8).filter(|_| len <= follows)?;
        // SAFETY: the bytes lie in a readable segment of an object that stays loaded while anybody asks for its
        // symbols (`HostObject::symbols`), or while glibc's list is locked (`HostObject::read`). Nobody writes an object's
        // tables.
        let bytes = unsafe { Bytes::lent(start, len as usize) };
        Some(View::new(bytes, Class::NATIVE, native_order()))
    }
}

const fn native_order() -> ByteOrder {
    if cfg!(target_endian = "little") { ByteOrder::Little } else { ByteOrder::Big }
}
