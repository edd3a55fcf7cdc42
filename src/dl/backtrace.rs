//! `backtrace_symbols` and `backtrace_symbols_fd`: the C library's own know only the objects that it loaded.
//!
//! # Safety
//! Called by foreign code with what `<execinfo.h>` documents: `addresses` are `count` addresses.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::ptr;

use super::entries::dladdr;

/// `backtrace_symbols`: a line for each address, in one block that the caller frees.
///
/// ```
/// // SAFETY: one address; the block is freed once.
/// unsafe {
///     let lines = soload::dl::backtrace_symbols([libc::getpid as *mut libc::c_void].as_ptr(), 1);
///     assert!(std::ffi::CStr::from_ptr(*lines).to_str().unwrap().contains("libc.so.6("));
///     libc::free(lines.cast());
/// }
/// ```
///
/// # Safety
/// As for the C function of that name.
pub unsafe extern "C" fn backtrace_symbols(addresses: *const *mut c_void, count: c_int) -> *mut *mut c_char {
    // SAFETY: the caller's promise.
    let lines: Vec<Vec<u8>> = unsafe { lines(addresses, count) }.collect();
    let table = lines.len() * size_of::<*mut c_char>();
    // SAFETY: as much as is written: the table, then each line with its end.
    unsafe {
        let block = libc::malloc(table + lines.iter().map(|line| line.len() + 1).sum::<usize>()).cast::<*mut c_char>();
        if block.is_null() {
            return ptr::null_mut();
        }
        let mut text = block.cast::<u8>().add(table);
        for (index, line) in lines.iter().enumerate() {
            block.add(index).write(text.cast());
            text.copy_from_nonoverlapping(line.as_ptr(), line.len());
            text.add(line.len()).write(0);
            text = text.add(line.len() + 1);
        }
        block
    }
}

/// `backtrace_symbols_fd`: the same lines, written to a file.
///
/// ```
/// // SAFETY: one address, and a file that is open.
/// unsafe { soload::dl::backtrace_symbols_fd([libc::getpid as *mut libc::c_void].as_ptr(), 1, 2) };
/// ```
///
/// # Safety
/// As for the C function of that name.
pub unsafe extern "C" fn backtrace_symbols_fd(addresses: *const *mut c_void, count: c_int, file: c_int) {
    // SAFETY: the caller's file, which stays his.
    let mut file = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(file) });
    // SAFETY: the caller's promise.
    for mut line in unsafe { lines(addresses, count) } {
        line.push(b'\n');
        // The function has no way to say that it failed.
        let _ = file.write_all(&line);
    }
}

/// As glibc writes them: `file(name+0x1) [0x2]`, and less where less is known.
unsafe fn lines(addresses: *const *mut c_void, count: c_int) -> impl Iterator<Item = Vec<u8>> {
    (0..usize::try_from(count).unwrap_or(0)).map(move |index| {
        // SAFETY: the promise of the functions above; `info` has room, and its strings last as long as its object.
        unsafe {
            let address = *addresses.add(index);
            let mut info: libc::Dl_info = std::mem::zeroed();
            let text = |at: *const c_char| if at.is_null() { &b""[..] } else { CStr::from_ptr(at).to_bytes() };
            if dladdr(address, &raw mut info) == 0 || text(info.dli_fname).is_empty() {
                return format!("[{address:p}]").into_bytes();
            }
            // Without a name the distance is counted from where the object starts.
            let from = if info.dli_saddr.is_null() { info.dli_fbase } else { info.dli_saddr } as usize;
            let (sign, distance) = match (address as usize).checked_sub(from) {
                Some(distance) => ('+', distance),
                None => ('-', from - address as usize),
            };
            let mut line = text(info.dli_fname).to_vec();
            line.push(b'(');
            line.extend(text(info.dli_sname));
            line.extend(format!("{sign}{distance:#x}) [{address:p}]").into_bytes());
            line
        }
    })
}
