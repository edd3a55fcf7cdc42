//! What `get` answers: an address that the caller has given a type, borrowed from a library or keeping it open.
//!
//! # Safety
//! Nothing can check that the type is right: whoever called `get` promised it. The size was checked by the library.

use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use crate::library::Library;

/// A function or variable of a library, which it cannot outlive. Dereferences to it.
///
/// ```
/// // SAFETY: `cos` has that type.
/// unsafe {
///     let library = soload::Library::new("libm.so.6")?;
///     let cos: soload::Symbol<'_, extern "C" fn(f64) -> f64> = library.get(b"cos\0")?;
///     assert_eq!(cos(0.0), 1.0);
/// }
/// # Ok::<(), soload::Error>(())
/// ```
pub struct Symbol<'lib, T> {
    pointer: *mut c_void,
    of: PhantomData<&'lib T>,
}

// SAFETY: it is a `T` that borrows the library, and as free to travel as a `T`.
unsafe impl<T: Send> Send for Symbol<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Symbol<'_, T> {}

impl<'lib, T> Symbol<'lib, T> {
    /// A symbol at `pointer`, of whichever library `'lib` is the life of.
    pub(crate) fn at(pointer: *mut c_void) -> Self {
        Self { pointer, of: PhantomData }
    }

    /// The address itself.
    #[must_use]
    pub fn as_raw_ptr(&self) -> *mut c_void {
        self.pointer
    }

    /// The address, free of the lifetime.
    ///
    /// # Safety
    /// The caller sees to it that the address is not used after the library is closed.
    #[must_use]
    pub unsafe fn into_raw(self) -> *mut c_void {
        self.pointer
    }

    /// A symbol from an address and the library that it belongs to.
    ///
    /// # Safety
    /// The address came from [`Symbol::into_raw`] for the same library and type.
    #[must_use]
    pub unsafe fn from_raw(pointer: *mut c_void, library: &'lib Library) -> Self {
        let _ = library;
        Self { pointer, of: PhantomData }
    }
}

impl<'lib, T> Symbol<'lib, Option<T>> {
    /// The symbol, unless its address is null.
    ///
    /// ```
    /// // SAFETY: `cos` has that type.
    /// unsafe {
    ///     let library = soload::Library::new("libm.so.6")?;
    ///     let cos: soload::Symbol<'_, Option<extern "C" fn(f64) -> f64>> = library.get("cos")?;
    ///     assert_eq!(cos.lift_option().unwrap()(0.0), 1.0);
    /// }
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn lift_option(self) -> Option<Symbol<'lib, T>> {
        (!self.pointer.is_null()).then_some(Symbol { pointer: self.pointer, of: PhantomData })
    }
}

impl<T> Clone for Symbol<'_, T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<T> Deref for Symbol<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `find` checked that `T` has the size of a pointer; the caller of `get` that it is the symbol's type.
        unsafe { &*(&raw const self.pointer).cast::<T>() }
    }
}

impl<T> fmt::Debug for Symbol<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Symbol({:p})", self.pointer)
    }
}

/// A function or variable that keeps its library open. Dereferences to it. See [`Library::get_owned`].
///
/// ```
/// # use std::sync::Arc;
/// // SAFETY: `cos` has that type.
/// let cos: soload::OwnedSymbol<extern "C" fn(f64) -> f64> =
///     unsafe { Arc::new(soload::Library::new("libm.so.6")?).get_owned(b"cos")? };
/// assert_eq!(cos(0.0), 1.0);
/// # Ok::<(), soload::Error>(())
/// ```
pub struct OwnedSymbol<T> {
    pointer: *mut c_void,
    library: Arc<Library>,
    of: PhantomData<T>,
}

// SAFETY: it is a `T` and a handle to the library, which is free to travel.
unsafe impl<T: Send> Send for OwnedSymbol<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for OwnedSymbol<T> {}

impl<T> OwnedSymbol<T> {
    /// A symbol at `pointer`, of `library`.
    pub(crate) fn at(pointer: *mut c_void, library: Arc<Library>) -> Self {
        Self { pointer, library, of: PhantomData }
    }

    /// The library it keeps open.
    #[must_use]
    pub fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// The address itself.
    #[must_use]
    pub fn as_raw_ptr(&self) -> *mut c_void {
        self.pointer
    }
}

impl<T> Clone for OwnedSymbol<T> {
    fn clone(&self) -> Self {
        Self { pointer: self.pointer, library: Arc::clone(&self.library), of: PhantomData }
    }
}

impl<T> Deref for OwnedSymbol<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: as for `Symbol`; the library is open as long as `self.library` is.
        unsafe { &*(&raw const self.pointer).cast::<T>() }
    }
}

impl<T> fmt::Debug for OwnedSymbol<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnedSymbol({:p} of {:?})", self.pointer, self.library.path())
    }
}

/// What may name a symbol: bytes, text or a C string, with or without a NUL at the end.
///
/// ```
/// use soload::AsSymbolName;
/// assert_eq!(b"cos".name(), "cos".name());
/// ```
pub trait AsSymbolName {
    /// The name as bytes.
    fn name(&self) -> &[u8];
}

impl<T: AsSymbolName + ?Sized> AsSymbolName for &T {
    fn name(&self) -> &[u8] {
        (**self).name()
    }
}

impl AsSymbolName for [u8] {
    fn name(&self) -> &[u8] {
        self
    }
}

impl<const N: usize> AsSymbolName for [u8; N] {
    fn name(&self) -> &[u8] {
        self
    }
}

impl AsSymbolName for str {
    fn name(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsSymbolName for String {
    fn name(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsSymbolName for CStr {
    fn name(&self) -> &[u8] {
        self.to_bytes()
    }
}

impl AsSymbolName for CString {
    fn name(&self) -> &[u8] {
        self.to_bytes()
    }
}
