//! `soload call`: calls a function of a library with arguments and a result of types that are stated when it is run.
//!
//! # Safety
//! Nobody can check the stated types; whoever typed them vouches for them, and for the library's code.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_void};
use std::fmt;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use clap::ValueEnum;
use clap::builder::{OsStringValueParser, TypedValueParser};
use libffi::middle::{self, Cif, CodePtr};
use soload::{Error, Escaped, ExportKind, Library};

use super::print::{self, BOLD};
use super::{Loading, Outcome, Status, demo};

/// Call a function of a library
///
/// Without LIB, calls the functions of the demonstration plugin that is built into this command.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    soload call libm.so.6 cos f64:1.0 --ret f64\n  \
    soload call libz.so.1 zlibVersion --ret str\n  \
    soload call libz.so.1 crc32 u64:0 str:hello u32:5 --ret u64")]
pub(super) struct Args {
    /// The library: a path, or a name that is searched for as dlopen does
    #[arg(value_name = "LIB", requires = "symbol")]
    library: Option<OsString>,
    /// The function
    #[arg(value_name = "SYMBOL")]
    symbol: Option<OsString>,
    /// Arguments as TYPE:VALUE, such as i32:-5, u64:0xff, f64:1.5, bool:true, char:a, str:text, ptr:0
    #[arg(value_name = "ARG", value_parser = OsStringValueParser::new().try_map(|typed| Value::parse(&typed)))]
    arguments: Vec<Value>,
    /// The type of the result; i32 is C's int
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Type::I32)]
    ret: Type,
    /// The version of the function that is meant, of several
    #[arg(long, value_name = "VERSION")]
    symbol_version: Option<OsString>,
    #[command(flatten)]
    loading: Loading,
}

/// Defines [`Type`] and [`Value`]: the numbers are all alike, the rest is written out.
macro_rules! types {
    ($($name:ident $of:ident),*) => {
        /// The type of an argument or result, by its name in Rust.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
        pub(super) enum Type { Void, $($name,)* Bool, Char, Str, Ptr }

        /// An argument or result.
        #[derive(Clone, Debug, PartialEq)]
        pub(super) enum Value { Void, $($name($of),)* Bool(bool), Char(u8), Str(Option<CString>), Ptr(usize) }

        impl Type {
            fn of_ffi(self) -> middle::Type {
                match self {
                    Self::Void => middle::Type::void(),
                    $(Self::$name => middle::Type::$of(),)*
                    Self::Bool => middle::Type::u8(),
                    // Whether C's char is signed differs between machines.
                    Self::Char if c_char::MIN == 0 => middle::Type::u8(),
                    Self::Char => middle::Type::i8(),
                    Self::Str | Self::Ptr => middle::Type::pointer(),
                }
            }

            /// The value of this type that `text` says.
            fn read(self, text: &OsStr) -> Option<Value> {
                let utf8 = text.to_str();
                Some(match self {
                    Self::Void => return None,
                    $(Self::$name => Value::$name(<$of as Number>::read(utf8?)?),)*
                    Self::Bool => Value::Bool(utf8?.parse().ok()?),
                    Self::Char => match text.as_bytes() {
                        [byte] => Value::Char(*byte),
                        _ => return None,
                    },
                    Self::Str => Value::Str(Some(CString::new(text.as_bytes()).ok()?)),
                    Self::Ptr => Value::Ptr(Number::read(utf8?)?),
                })
            }

            /// Calls `code` and gives its result, which is of this type.
            ///
            /// # Safety
            /// `code` is a C function that takes what `arguments` hold, and `cif` says so.
            unsafe fn call(self, cif: &Cif, code: CodePtr, arguments: &[middle::Arg<'_>]) -> Value {
                // SAFETY: the caller's promise; a string that a function returns ends with a NUL.
                unsafe {
                    match self {
                        Self::Void => {
                            cif.call_return_into(code, arguments, middle::Ret::void());
                            Value::Void
                        }
                        $(Self::$name => Value::$name(cif.call(code, arguments)),)*
                        Self::Bool => Value::Bool(cif.call::<u8>(code, arguments) != 0),
                        Self::Char => Value::Char(cif.call(code, arguments)),
                        Self::Str => {
                            let text: *const c_char = cif.call(code, arguments);
                            Value::Str((!text.is_null()).then(|| CStr::from_ptr(text).to_owned()))
                        }
                        Self::Ptr => Value::Ptr(cif.call(code, arguments)),
                    }
                }
            }
        }

        impl Value {
            fn of_type(&self) -> Type {
                match self {
                    Self::Void => Type::Void,
                    $(Self::$name(_) => Type::$name,)*
                    Self::Bool(_) => Type::Bool,
                    Self::Char(_) => Type::Char,
                    Self::Str(_) => Type::Str,
                    Self::Ptr(_) => Type::Ptr,
                }
            }

            /// Where its bytes are; a string's pointer is put into `text`, which must live as long.
            fn place<'a>(&'a self, text: &'a mut *const c_char) -> middle::Arg<'a> {
                match self {
                    Self::Void => middle::arg(&()),
                    $(Self::$name(number) => middle::arg(number),)*
                    Self::Bool(value) => middle::arg(value),
                    Self::Char(byte) => middle::arg(byte),
                    Self::Str(value) => {
                        *text = value.as_ref().map_or(std::ptr::null(), |value| value.as_ptr());
                        middle::arg(text)
                    }
                    Self::Ptr(pointer) => middle::arg(pointer),
                }
            }
        }

        impl fmt::Display for Value {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::Void => Ok(()),
                    // As Debug: 1.0 and 1e300 stay recognisable.
                    $(Self::$name(number) => write!(f, "{number:?}"),)*
                    Self::Bool(value) => write!(f, "{value}"),
                    Self::Char(byte) => write!(f, "{}", Escaped(&[*byte])),
                    Self::Str(None) => f.write_str("(null)"),
                    Self::Str(Some(text)) => write!(f, "{}", Escaped(text.to_bytes())),
                    Self::Ptr(pointer) => write!(f, "{pointer:#x}"),
                }
            }
        }
    };
}
types!(I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64, Isize isize, Usize usize, F32 f32, F64 f64);

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// A number as it may be typed: `-5`, `0xff`, `0b101`, `1.5`, `1e9`.
trait Number: Sized {
    fn read(text: &str) -> Option<Self>;
}

macro_rules! integers {
    ($($of:ty),*) => {$(
        impl Number for $of {
            fn read(text: &str) -> Option<Self> {
                let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
                let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
                let prefixed = prefixes.iter().find_map(|(prefix, radix)| Some((digits.strip_prefix(prefix)?, *radix)));
                let (digits, radix) = prefixed.unwrap_or((digits, 10));
                // A second sign is no digit, but `from_str_radix` takes it.
                let number = i128::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with(['-', '+']))?;
                (if negative { -number } else { number }).try_into().ok()
            }
        }
    )*};
}
integers!(i8, i16, i32, i64, u8, u16, u32, u64, isize, usize);

macro_rules! floats {
    ($($of:ty),*) => {$(
        impl Number for $of {
            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}
floats!(f32, f64);

impl Value {
    pub(super) fn parse(typed: &OsStr) -> Result<Self, String> {
        let bytes = typed.as_bytes();
        let Some(colon) = bytes.iter().position(|byte| *byte == b':') else {
            return Err("expected TYPE:VALUE, such as i32:5 or str:text".into());
        };
        let (name, text) = (String::from_utf8_lossy(&bytes[..colon]), OsStr::from_bytes(&bytes[colon + 1..]));
        let of_type = Type::from_str(&name, false).ok().filter(|of_type| *of_type != Type::Void).ok_or_else(|| {
            let names = Type::value_variants().iter().filter(|known| **known != Type::Void).map(ToString::to_string);
            format!("expected one of the types {}", names.collect::<Vec<_>>().join(", "))
        })?;
        of_type.read(text).ok_or_else(|| match of_type {
            Type::Bool => "expected bool:true or bool:false".into(),
            Type::Char => "expected one byte, such as char:a".into(),
            Type::Str => "expected text without NUL".into(),
            Type::Ptr => "expected an address, such as ptr:0".into(),
            number => format!("expected a number that fits {number}"),
        })
    }

    /// As it is typed on the command line.
    pub(super) fn typed(&self) -> String {
        format!("{}:{self}", self.of_type())
    }
}

/// The address of a function.
pub(super) fn find(library: &Library, symbol: &OsStr, version: Option<&OsStr>) -> Result<*mut c_void, Error> {
    // SAFETY: only the address is used here.
    let found = unsafe {
        match version {
            None => library.get::<*mut c_void>(symbol.as_bytes()),
            Some(version) => library.get_version::<*mut c_void>(symbol.as_bytes(), version.as_bytes()),
        }
    };
    found.map(|symbol| symbol.as_raw_ptr())
}

/// What stands there instead of a function, if none does.
pub(super) fn no_function(library: &Library, symbol: &OsStr, address: *mut c_void) -> Option<&'static str> {
    let is_function = |kind| !matches!(kind, ExportKind::Variable | ExportKind::ThreadLocal);
    let variable = library.exports().any(|export| export.name() == symbol.as_bytes() && !is_function(export.kind()));
    match address.is_null() {
        _ if variable => Some("a variable"),
        true => Some("a symbol of value 0"),
        false => None,
    }
}

/// Calls the function at `address`.
///
/// # Safety
/// It is a C function that takes `values` and returns a `result`; its library is open.
pub(super) unsafe fn call(address: *mut c_void, values: &[Value], result: Type) -> Value {
    let cif = Cif::new(values.iter().map(|value| value.of_type().of_ffi()), result.of_ffi());
    let mut texts = vec![std::ptr::null(); values.len()];
    let places: Vec<_> = values.iter().zip(&mut texts).map(|(value, text)| value.place(text)).collect();
    // SAFETY: the caller's promise; `cif` and `places` were made from the same values.
    let answer = unsafe { result.call(&cif, CodePtr(address), &places) };
    // What the function printed with <stdio.h> comes before what is printed of its result.
    // SAFETY: null means all streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
    answer
}

pub(super) fn run(args: Args, out: &mut impl Write) -> Outcome {
    let (Some(name), Some(symbol)) = (&args.library, &args.symbol) else { return call_plugin(&args.loading, out) };
    // SAFETY: whoever names a library on the command line vouches for its code.
    let opened = unsafe { args.loading.options().open(name) };
    let found = opened.and_then(|library| {
        let address = find(&library, symbol, args.symbol_version.as_deref())?;
        Ok((library, address))
    });
    let (library, address) = match found {
        Ok(found) => found,
        Err(error) => {
            print::complain_of(&error);
            return Ok(Status::Failed);
        }
    };
    if let Some(what) = no_function(&library, symbol, address) {
        print::complain(format_args!("{}: expected a function, found {what}", Escaped(symbol.as_bytes())));
        return Ok(Status::Failed);
    }
    // SAFETY: as above, for the types too; `library` is open until the end of this function.
    match unsafe { call(address, &args.arguments, args.ret) } {
        Value::Void => {}
        answer => writeln!(out, "{answer}")?,
    }
    Ok(Status::Done)
}

/// Without a library: the plugin's functions, as examples.
fn call_plugin(loading: &Loading, out: &mut impl Write) -> Outcome {
    let Some(plugin) = demo::Plugin::write() else { return Ok(Status::Failed) };
    // SAFETY: the plugin's constructor is sound.
    let opened = unsafe { loading.options().open(plugin.path()) };
    match opened.and_then(|library| demo::call_examples(&library)) {
        Ok(calls) => {
            writeln!(out, "{BOLD}Called{BOLD:#} functions of the demonstration plugin, by types known only now:\n")?;
            calls.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
            writeln!(out, "\nNext: `soload call libm.so.6 cos f64:1.0 --ret f64`, `soload call --help`.")?;
            Ok(Status::Done)
        }
        Err(error) => {
            print::complain_of(&error);
            Ok(Status::Failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Value, String> {
        Value::parse(text.as_ref())
    }

    #[test]
    fn numbers_are_read_in_every_base_and_must_fit() {
        assert_eq!(parse("i8:-128"), Ok(Value::I8(-128)));
        assert_eq!(parse("u64:0xffffffffffffffff"), Ok(Value::U64(u64::MAX)));
        assert_eq!(parse("i32:-0x10"), Ok(Value::I32(-16)));
        assert_eq!(parse("u8:0b101"), Ok(Value::U8(5)));
        assert_eq!(parse("f32:1e3"), Ok(Value::F32(1000.0)));
        assert_eq!(parse("ptr:0"), Ok(Value::Ptr(0)));
        for wrong in ["u8:256", "i8:-129", "u8:-1", "i32:", "i32:--5", "i32:+-5", "i32:0x-5", "i32:1.5", "f64:x"] {
            assert!(parse(wrong).unwrap_err().starts_with("expected a number that fits "), "{wrong}");
        }
    }

    #[test]
    fn the_rest_is_read_by_its_type() {
        assert_eq!(parse("bool:true"), Ok(Value::Bool(true)));
        assert_eq!(parse("char:a"), Ok(Value::Char(b'a')));
        assert_eq!(parse("str:a:b"), Ok(Value::Str(Some(c"a:b".into()))));
        assert_eq!(parse("str:"), Ok(Value::Str(Some(c"".into()))));
        assert!(parse("5").unwrap_err().contains("TYPE:VALUE"));
        assert!(parse("int:5").unwrap_err().contains("i8, i16"));
        assert!(parse("void:5").is_err());
        assert!(parse("char:ab").is_err());
        assert!(parse("bool:1").is_err());
    }

    #[test]
    fn what_is_printed_can_be_typed() {
        for typed in ["i32:-5", "f64:1.5", "bool:false", "char:x", "str:text", "ptr:0x10", "usize:7"] {
            assert_eq!(parse(typed).unwrap().typed(), typed);
        }
    }

    #[test]
    fn arguments_and_results_of_every_kind_arrive() {
        extern "C" fn weigh(a: i8, b: u64, c: f32, d: f64, e: bool, f: *const c_char) -> f64 {
            // SAFETY: called below with a C string.
            let len = unsafe { CStr::from_ptr(f) }.to_bytes().len();
            f64::from(a) + b as f64 + f64::from(c) + d + f64::from(u8::from(e)) + len as f64
        }
        extern "C" fn negative() -> i16 {
            -7
        }
        extern "C" fn nothing() -> *const c_char {
            std::ptr::null()
        }
        let values =
            ["i8:-1", "u64:10", "f32:0.5", "f64:0.25", "bool:true", "str:abc"].map(|text| parse(text).unwrap());
        // SAFETY: the types are those above.
        unsafe {
            assert_eq!(call(weigh as *mut c_void, &values, Type::F64), Value::F64(13.75));
            assert_eq!(call(negative as *mut c_void, &[], Type::I16).to_string(), "-7");
            assert_eq!(call(nothing as *mut c_void, &[], Type::Str).to_string(), "(null)");
        }
    }
}
