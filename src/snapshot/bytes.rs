//! Numbers and strings written one after another, and read back with every length checked.

/// What a reader finds where the bytes do not make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut;

/// Something that is written as numbers and read back.
pub(super) trait Field: Sized {
    /// The fewest bytes that one takes, so that a count can be held against what is left.
    const LEAST: usize;
    fn put(&self, to: &mut Vec<u8>);
    fn get(from: &mut Reader<'_>) -> Result<Self, Cut>;
}

/// Bytes that are read from the front.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Cut> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Cut)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn read<T: Field>(&mut self) -> Result<T, Cut> {
        T::get(self)
    }

    /// Nothing may follow.
    pub(super) fn end(self) -> Result<(), Cut> {
        if self.0.is_empty() { Ok(()) } else { Err(Cut) }
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Field for $type {
            const LEAST: usize = size_of::<$type>();

            fn put(&self, to: &mut Vec<u8>) {
                to.extend(self.to_le_bytes());
            }

            fn get(from: &mut Reader<'_>) -> Result<Self, Cut> {
                let bytes = from.take(size_of::<$type>())?;
                bytes.try_into().map(<$type>::from_le_bytes).map_err(|_| Cut)
            }
        }
    )*};
}
number!(u8, u16, u32, u64, i64);

impl<const LEN: usize> Field for [u8; LEN] {
    const LEAST: usize = LEN;

    fn put(&self, to: &mut Vec<u8>) {
        to.extend(self);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Cut> {
        from.take(LEN)?.try_into().map_err(|_| Cut)
    }
}

impl<T: Field> Field for Vec<T> {
    const LEAST: usize = 4;

    fn put(&self, to: &mut Vec<u8>) {
        (self.len() as u32).put(to);
        self.iter().for_each(|field| field.put(to));
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Cut> {
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

/// A structure is its fields, in order.
macro_rules! fields {
    ($type:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        impl Field for $type {
            const LEAST: usize = 0 $(+ <$kind as Field>::LEAST)*;

            fn put(&self, to: &mut Vec<u8>) {
                $(self.$field.put(to);)*
            }

            fn get(from: &mut Reader<'_>) -> Result<Self, Cut> {
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
