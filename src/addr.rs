//! Three kinds of number that must never be mixed: offsets in a file, addresses as a file states them, addresses in this process.

use std::fmt;

/// An offset in a file, in bytes.
///
/// ```
/// assert_eq!(soload::FileOffset(0xd0).to_string(), "0xd0");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileOffset(pub u64);

/// A virtual address as the file states it (`p_vaddr`, `st_value`, `r_offset`): relative to where the object is loaded.
///
/// ```
/// assert_eq!(soload::Vaddr(0x1000).checked_add(0x10), Some(soload::Vaddr(0x1010)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vaddr(pub u64);

/// An address in this process.
///
/// ```
/// assert_eq!(soload::Addr(0x7f00).to_string(), "0x7f00");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub usize);

/// The load bias of one object: what is added to its [`Vaddr`]s (gABI chapter 5, "base address").
///
/// The only way from a [`Vaddr`] to an [`Addr`].
///
/// ```
/// use soload::{Addr, Bias, Vaddr};
/// let bias = Bias::between(Addr(0x5000), Vaddr(0x1000));
/// assert_eq!(bias.at(Vaddr(0x1234)), Addr(0x5234));
/// assert_eq!(bias.vaddr(Addr(0x5234)), Vaddr(0x1234));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bias(usize);

impl Bias {
    /// The bias of an object of which `vaddr` lies at `addr`.
    #[must_use]
    pub const fn between(addr: Addr, vaddr: Vaddr) -> Self {
        Self(addr.0.wrapping_sub(vaddr.0 as usize))
    }

    /// Where `vaddr` lies in this process. Wraps, as address arithmetic in the psABI does; the caller checks ranges.
    #[must_use]
    pub const fn at(self, vaddr: Vaddr) -> Addr {
        Addr(self.0.wrapping_add(vaddr.0 as usize))
    }

    /// The inverse of [`Bias::at`].
    #[must_use]
    pub const fn vaddr(self, addr: Addr) -> Vaddr {
        Vaddr(addr.0.wrapping_sub(self.0) as u64)
    }

    /// The number itself: `B` in the psABI's relocation formulas.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }
}

impl Vaddr {
    /// The address `bytes` further on, unless it would pass the end of the address space.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

/// The size of a page: a power of two, so that an address is page number + offset.
///
/// ```
/// let page = soload::PageSize::new(0x1000).unwrap();
/// assert_eq!((page.down(0x1fff), page.up(0x1001)), (0x1000, Some(0x2000)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageSize(u64);

impl PageSize {
    /// What one entry of the second level of page tables maps, where pages have 4 KiB.
    pub(crate) const HUGE: Self = Self(2 << 20);

    /// `bytes` as a page size, if it is a power of two.
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() { Some(Self(bytes)) } else { None }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The start of the page that `number` lies in.
    #[must_use]
    pub const fn down(self, number: u64) -> u64 {
        number & !(self.0 - 1)
    }

    /// The first page boundary at or after `number`, if there is one.
    #[must_use]
    pub const fn up(self, number: u64) -> Option<u64> {
        match number.checked_add(self.0 - 1) {
            Some(sum) => Some(self.down(sum)),
            None => None,
        }
    }

    /// The offset of `number` in its page.
    #[must_use]
    pub const fn offset(self, number: u64) -> u64 {
        number & (self.0 - 1)
    }
}

macro_rules! hexadecimal {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    )*};
}
hexadecimal!(FileOffset, Vaddr, Addr, PageSize);

/// What may be done with the bytes of a mapping: `p_flags` of a segment, `prot` of `mmap`.
///
/// ```
/// assert_eq!(soload::Protection { read: true, write: false, execute: true }.to_string(), "r-x");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Protection {
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
}

impl Protection {
    /// Nothing at all: reserved addresses.
    pub const NONE: Self = Self { read: false, write: false, execute: false };
    /// Reading only.
    pub const READ: Self = Self { read: true, write: false, execute: false };
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |allowed, letter| if allowed { letter } else { '-' };
        write!(f, "{}{}{}", letter(self.read, 'r'), letter(self.write, 'w'), letter(self.execute, 'x'))
    }
}
