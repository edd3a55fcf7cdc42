//! Numbers and strings written one after another, and read back with every length checked, where they stand.

use std::borrow::Cow;

/// What a reader finds where the bytes do not make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

/// Something that is written as numbers and read back.
pub(crate) trait Field<'a>: Sized {
    /// The fewest bytes that one takes, so that a count can be held against what is left.
    const LEAST: usize;
    fn put(&self, to: &mut Vec<u8>);
    fn get(from: &mut Reader<'a>) -> Result<Self, Cut>;
}

/// Bytes that are read from the front.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Cut> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Cut)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn read<T: Field<'a>>(&mut self) -> Result<T, Cut> {
        T::get(self)
    }

    /// Nothing may follow.
    pub(super) fn end(self) -> Result<(), Cut> {
        if self.0.is_empty() { Ok(()) } else { Err(Cut) }
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl<'a> Field<'a> for $type {
            const LEAST: usize = size_of::<$type>();

            fn put(&self, to: &mut Vec<u8>) {
                to.extend(self.to_le_bytes());
            }

            fn get(from: &mut Reader<'a>) -> Result<Self, Cut> {
                let bytes = from.take(size_of::<$type>())?;
                bytes.try_into().map(<$type>::from_le_bytes).map_err(|_| Cut)
            }
        }
    )*};
}
number!(u8, u16, u32, u64, i64);

impl<'a, const LEN: usize> Field<'a> for [u8; LEN] {
    const LEAST: usize = LEN;

    fn put(&self, to: &mut Vec<u8>) {
        to.extend(self);
    }

    fn get(from: &mut Reader<'a>) -> Result<Self, Cut> {
        from.take(LEN)?.try_into().map_err(|_| Cut)
    }
}

impl<'a, T: Field<'a>> Field<'a> for Vec<T> {
    const LEAST: usize = 4;

    fn put(&self, to: &mut Vec<u8>) {
        (self.len() as u32).put(to);
        self.iter().for_each(|field| field.put(to));
    }

    fn get(from: &mut Reader<'a>) -> Result<Self, Cut> {
        let count = from.read::<u32>()? as usize;
        if count > from.0.len() / T::LEAST {
            return Err(Cut);
        }
        // Room for that many, which the bytes have: not more, and in one piece.
        let mut fields = Vec::with_capacity(count);
        for _ in 0..count {
            fields.push(from.read()?);
        }
        Ok(fields)
    }
}

/// Bytes of any number: a text, say.
impl<'a> Field<'a> for Cow<'a, [u8]> {
    const LEAST: usize = 4;

    fn put(&self, to: &mut Vec<u8>) {
        (self.len() as u32).put(to);
        to.extend_from_slice(self);
    }

    fn get(from: &mut Reader<'a>) -> Result<Self, Cut> {
        let len = from.read::<u32>()? as usize;
        from.take(len).map(Cow::Borrowed)
    }
}

/// Something that always takes [`Field::LEAST`] bytes, and reads back whatever they are.
pub(crate) trait Number: for<'a> Field<'a> + Copy {}
impl Number for u16 {}
impl Number for u32 {}

/// Numbers in a row: those that are to be written, or those that stand in bytes.
#[derive(Clone, Debug)]
pub(crate) enum List<'a, T> {
    Made(Vec<T>),
    Read(&'a [u8]),
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self::Read(&[])
    }
}

impl<T> From<Vec<T>> for List<'_, T> {
    fn from(numbers: Vec<T>) -> Self {
        Self::Made(numbers)
    }
}

impl<T: Number> List<'_, T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Made(numbers) => numbers.len(),
            Self::Read(bytes) => bytes.len() / T::LEAST,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        let (made, read): (&[T], &[u8]) = match self {
            Self::Made(numbers) => (numbers, &[]),
            Self::Read(bytes) => (&[], bytes),
        };
        let read = read.chunks_exact(T::LEAST).filter_map(|bytes| Reader::new(bytes).read().ok());
        made.iter().copied().chain(read)
    }

    /// The numbers themselves, to be changed.
    pub(crate) fn to_mut(&mut self) -> &mut Vec<T> {
        if let Self::Read(_) = self {
            *self = Self::Made(self.iter().collect());
        }
        match self {
            Self::Made(numbers) => numbers,
            Self::Read(_) => unreachable!("it has just been made"),
        }
    }
}

impl<T: Number + PartialEq> PartialEq for List<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: Number + Eq> Eq for List<'_, T> {}

impl<'a, T: Number> Field<'a> for List<'a, T> {
    const LEAST: usize = 4;

    fn put(&self, to: &mut Vec<u8>) {
        (self.len() as u32).put(to);
        match self {
            Self::Made(numbers) => numbers.iter().for_each(|number| number.put(to)),
            Self::Read(bytes) => to.extend_from_slice(bytes),
        }
    }

    fn get(from: &mut Reader<'a>) -> Result<Self, Cut> {
        let count = from.read::<u32>()? as usize;
        from.take(count.checked_mul(<T as Field<'a>>::LEAST).ok_or(Cut)?).map(Self::Read)
    }
}

/// A structure is its fields, in order.
macro_rules! fields {
    ($type:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        fields!($type, $type { $($field: $kind),* });
    };
    ($type:ident, $full:ty { $($field:ident: $kind:ty),* $(,)? }) => {
        impl<'a> Field<'a> for $full {
            const LEAST: usize = 0 $(+ <$kind as Field<'a>>::LEAST)*;

            fn put(&self, to: &mut Vec<u8>) {
                $(self.$field.put(to);)*
            }

            fn get(from: &mut Reader<'a>) -> Result<Self, Cut> {
                Ok(Self { $($field: from.read()?),* })
            }
        }
    };
}
pub(super) use fields;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused_before_anything_is_kept() {
        let mut bytes = Vec::new();
        vec![1u64, 2].put(&mut bytes);
        assert_eq!(Reader::new(&bytes).read::<Vec<u64>>(), Ok(vec![1, 2]));
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Reader::new(&bytes).read::<Vec<u64>>(), Err(Cut));
        assert_eq!(Reader::new(&[1, 0, 0, 0]).read::<Vec<u8>>(), Err(Cut));
        assert_eq!(Reader::new(&[0]).end(), Err(Cut));
    }
}
