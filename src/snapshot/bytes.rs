//! Numbers and strings written one after another, and read back with every length checked, where they stand.

use std::borrow::Cow;

/// What a reader finds where the bytes do not make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

/// Something that is written as numbers and read back.
pub(crate) trait Field<'a>: Sized {
    /// The fewest bytes that one takes, so that a count can be held against what is left.
    const LEAST: usize;
    /// Whether it always takes so many, and reads back whatever they are.
    const FIXED: bool = false;
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
            const FIXED: bool = true;

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
    const FIXED: bool = true;

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

/// Values one after another: those that are to be written, or those that stand in bytes, each read when its turn comes. In
/// front of them stands how many bytes they have.
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
    fn from(values: Vec<T>) -> Self {
        Self::Made(values)
    }
}

impl<'a, T: Field<'a> + Clone> List<'a, T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Made(values) => values.len(),
            Self::Read(bytes) if T::FIXED => bytes.len() / T::LEAST,
            Self::Read(_) => self.iter().count(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        let (made, read): (&[T], &'a [u8]) = match self {
            Self::Made(values) => (values, &[]),
            Self::Read(bytes) => (&[], bytes),
        };
        let mut reader = Reader::new(read);
        let read = std::iter::from_fn(move || if reader.0.is_empty() { None } else { reader.read().ok() });
        made.iter().cloned().chain(read)
    }

    /// Whether all of its bytes are values, for which `holds`.
    pub(crate) fn all(&self, mut holds: impl FnMut(T) -> bool) -> bool {
        match self {
            Self::Made(values) => values.iter().cloned().all(holds),
            Self::Read(bytes) => {
                let mut reader = Reader::new(bytes);
                while !reader.0.is_empty() {
                    if !reader.read().is_ok_and(&mut holds) {
                        return false;
                    }
                }
                true
            }
        }
    }

    /// The values themselves, to be changed.
    pub(crate) fn to_mut(&mut self) -> &mut Vec<T> {
        if let Self::Read(_) = self {
            *self = Self::Made(self.iter().collect());
        }
        match self {
            Self::Made(values) => values,
            Self::Read(_) => unreachable!("it has just been made"),
        }
    }
}

impl<'a, T: Field<'a> + Clone + PartialEq> PartialEq for List<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, T: Field<'a> + Clone + Eq> Eq for List<'a, T> {}

impl<'a, T: Field<'a> + Clone> Field<'a> for List<'a, T> {
    const LEAST: usize = 4;

    fn put(&self, to: &mut Vec<u8>) {
        let start = to.len();
        0u32.put(to);
        match self {
            Self::Made(values) => values.iter().for_each(|value| value.put(to)),
            Self::Read(bytes) => to.extend_from_slice(bytes),
        }
        let len = (to.len() - start - 4) as u32;
        to[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }

    fn get(from: &mut Reader<'a>) -> Result<Self, Cut> {
        let len = from.read::<u32>()? as usize;
        let whole = !T::FIXED || len.is_multiple_of(T::LEAST);
        from.take(len).map(Self::Read).and_then(|list| if whole { Ok(list) } else { Err(Cut) })
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
            const FIXED: bool = true $(&& <$kind as Field<'a>>::FIXED)*;

            fn put(&self, to: &mut Vec<u8>) {
                $(self.$field.put(to);)*
            }

            fn get(from: &mut Reader<'a>) -> Result<Self, Cut> {
                // What takes that many bytes in any case is held against those that are left once.
                let mut whole;
                let from = if Self::FIXED {
                    whole = Reader::new(from.take(Self::LEAST)?);
                    &mut whole
                } else {
                    from
                };
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

    #[test]
    fn a_list_is_read_where_it_stands_and_changed_only_in_a_copy() {
        let mut bytes = Vec::new();
        List::from(vec![7u16, 8, 9]).put(&mut bytes);
        assert_eq!(bytes, [6, 0, 0, 0, 7, 0, 8, 0, 9, 0]);
        let mut list: List<'_, u16> = Reader::new(&bytes).read().unwrap();
        assert!(matches!(list, List::Read(of) if std::ptr::eq(of, &raw const bytes[4..])));
        assert_eq!((list.len(), list.iter().collect::<Vec<_>>()), (3, vec![7, 8, 9]));
        list.to_mut().retain(|number| *number != 8);
        assert_eq!(list, List::from(vec![7, 9]));
        let texts = List::from(vec![Cow::Borrowed(&b"a"[..]), Cow::Borrowed(b"")]);
        bytes.clear();
        texts.put(&mut bytes);
        assert_eq!(Reader::new(&bytes).read(), Ok(texts));
    }

    #[test]
    fn a_list_that_is_cut_or_ends_inside_a_value_is_refused() {
        assert_eq!(Reader::new(&[4, 0, 0, 0, 1, 0]).read::<List<'_, u16>>(), Err(Cut));
        assert_eq!(Reader::new(&[3, 0, 0, 0, 1, 0, 2]).read::<List<'_, u16>>(), Err(Cut));
        assert_eq!(Reader::new(&[255, 255, 255, 255, 1, 0]).read::<List<'_, u16>>(), Err(Cut));
        // The values of other lists have lengths of their own: whoever takes them asks for all.
        for (bytes, whole) in
            [(&[1, 0, 0, 0, 7][..], true), (&[2, 0, 0, 0, 7], false), (&[0, 0, 0], false), (&[], true)]
        {
            assert_eq!(List::<Cow<'_, [u8]>>::Read(bytes).all(|_| true), whole, "{bytes:?}");
        }
        assert!(!List::<u16>::Read(&[1, 0, 2, 0]).all(|number| number == 1));
    }
}
