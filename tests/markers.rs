//! Which of the public types may go to another thread, pinned when this compiles; the same as in libloading.

use std::cell::Cell;
use std::rc::Rc;

use soload::{Error, Library, OpenOptions, OwnedSymbol, Symbol};

type Function = extern "C" fn() -> i32;

const fn is_send<T: Send>() {}
const fn is_sync<T: Sync>() {}

/// Compiles only if the type lacks the trait: with it, two implementations would fit the call.
macro_rules! is_not {
    ($type:ty: $marker:ident) => {
        const _: fn() = || {
            trait Ambiguous<A> {
                fn some() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            impl<T: ?Sized + $marker> Ambiguous<u8> for T {}
            <$type as Ambiguous<_>>::some();
        };
    };
}

const _: () = {
    is_send::<Library>();
    is_sync::<Library>();
    is_send::<OpenOptions>();
    is_sync::<OpenOptions>();
    is_send::<Error>();
    is_sync::<Error>();
    is_send::<Symbol<'static, Function>>();
    is_sync::<Symbol<'static, Function>>();
    is_send::<OwnedSymbol<Function>>();
    is_sync::<OwnedSymbol<Function>>();
    // A symbol is sent or shared as the value it stands for.
    is_send::<Symbol<'static, Cell<usize>>>();
    is_send::<OwnedSymbol<Cell<usize>>>();
};

is_not!(Symbol<'static, *const u8>: Send);
is_not!(Symbol<'static, *const u8>: Sync);
is_not!(Symbol<'static, Cell<usize>>: Sync);
is_not!(OwnedSymbol<Rc<u8>>: Send);
is_not!(OwnedSymbol<*const u8>: Sync);
is_not!(OwnedSymbol<Cell<usize>>: Sync);

#[test]
fn an_error_can_be_any_error() {
    fn boxed(error: Error) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        error.into()
    }
    let _: fn(Error) -> Box<dyn std::error::Error + Send + Sync + 'static> = boxed;
}
