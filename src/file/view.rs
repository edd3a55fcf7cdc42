//! Bounded reading: numbers and strings of either class and byte order out of bytes that may end anywhere.

use std::ops::Range;

use crate::arch::native;
use crate::sys::Bytes;

/// 32-bit or 64-bit (`EI_CLASS`).
///
/// ```
/// assert_eq!(soload::Class::Elf64.word(), 8);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// `ELFCLASS32`.
    Elf32,
    /// `ELFCLASS64`.
    Elf64,
}

impl Class {
    /// That of this process.
    pub(crate) const NATIVE: Self = if cfg!(target_pointer_width = "64") { Self::Elf64 } else { Self::Elf32 };

    /// Bytes in an address.
    #[must_use]
    pub const fn word(self) -> u64 {
        match self {
            Self::Elf32 => 4,
            Self::Elf64 => 8,
        }
    }
}

/// Which byte of a number comes first (`EI_DATA`).
///
/// ```
/// assert_ne!(soload::ByteOrder::Little, soload::ByteOrder::Big);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// Least significant first.
    Little,
    /// Most significant first.
    Big,
}

/// Bytes and how to read them.
#[derive(Clone)]
pub(crate) struct View {
    bytes: Bytes,
    pub(crate) class: Class,
    pub(crate) order: ByteOrder,
}

macro_rules! number {
    ($name:ident, $type:ty) => {
        #[inline]
        pub(crate) fn $name(&self, at: u64) -> Option<$type> {
            const SIZE: usize = size_of::<$type>();
            let at = usize::try_from(at).ok()?;
            let bytes: [u8; SIZE] = self.bytes.get(at..at.checked_add(SIZE)?)?.try_into().ok()?;
            Some(match self.order {
                ByteOrder::Little => <$type>::from_le_bytes(bytes),
                ByteOrder::Big => <$type>::from_be_bytes(bytes),
            })
        }
    };
}

impl View {
    pub(crate) fn new(bytes: Bytes, class: Class, order: ByteOrder) -> Self {
        Self { bytes, class, order }
    }

    number!(u16, u16);
    number!(u32, u32);
    number!(u64, u64);

    pub(crate) fn u8(&self, at: u64) -> Option<u8> {
        self.bytes.get(usize::try_from(at).ok()?).copied()
    }

    /// Numbers of four bytes that follow one another.
    #[inline]
    pub(crate) fn u32s<const N: usize>(&self, at: u64) -> Option<[u32; N]> {
        let words: &[[u8; 4]; N] = self.bytes.get(usize::try_from(at).ok()?..)?.as_chunks().0.first_chunk()?;
        Some(match self.order {
            ByteOrder::Little => words.map(u32::from_le_bytes),
            ByteOrder::Big => words.map(u32::from_be_bytes),
        })
    }

    /// The halves of a number of four bytes, in the order in which they stand.
    pub(crate) fn halves(&self, word: u32) -> [u16; 2] {
        let (low, high) = (word as u16, (word >> 16) as u16);
        if self.order == ByteOrder::Little { [low, high] } else { [high, low] }
    }

    /// A number of the size of an address.
    #[inline]
    pub(crate) fn word(&self, at: u64) -> Option<u64> {
        match self.class {
            Class::Elf64 => self.u64(at),
            Class::Elf32 => self.u32(at).map(u64::from),
        }
    }

    /// A signed number of the size of an address.
    #[inline]
    pub(crate) fn signed_word(&self, at: u64) -> Option<i64> {
        match self.class {
            Class::Elf64 => self.u64(at).map(|word| word as i64),
            Class::Elf32 => self.u32(at).map(|word| i64::from(word as i32)),
        }
    }

    /// The string that starts at `at`, without its NUL; `None` if it does not end inside.
    #[inline(never)] // once for all who read names
    pub(crate) fn str_at(&self, at: u64) -> Option<&[u8]> {
        let rest = self.bytes.get(usize::try_from(at).ok()?..)?;
        let (steps, last) = rest.as_chunks::<16>();
        // Sixteen bytes a step; strings of tables are rarely longer.
        let ends = |(number, step): (usize, &[u8; 16])| match native::zeros_of_sixteen(*step) {
            0 => None,
            zeros => Some(number * 16 + zeros.trailing_zeros() as usize),
        };
        let in_last = || Some(steps.len() * 16 + last.iter().position(|byte| *byte == 0)?);
        Some(&rest[..steps.iter().enumerate().find_map(ends).or_else(in_last)?])
    }

    pub(crate) fn slice(&self, range: Range<u64>) -> Option<Self> {
        Some(Self { bytes: self.bytes.slice(range)?, class: self.class, order: self.order })
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, to be kept.
    pub(crate) fn held(&self) -> Bytes {
        self.bytes.clone()
    }
}
