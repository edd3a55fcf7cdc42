//! Stubs: code that goes on to the function whose address stands in a word of a table.
//!
//! A stub touches no register and not the stack: the function sees its caller's arguments and return address, and there is
//! no frame to be unwound. Each one is a target of indirect jumps, as the psABI wants it where those are checked
//! (`endbr64`).
//!
//! There is no record for unwinders: one that begins within a stub, where a signal has interrupted it, ends there. Debuggers
//! take it for the first instruction of a function, and find the caller by the return address.

/// Bytes of a stub. They stand as close as they can: each process has written every page of them.
pub(crate) const LEN: u64 = 10;

/// `count` stubs, one behind the other. The word of the first is `table` bytes after it, those of the others follow.
pub(crate) fn code(count: usize, table: u64) -> Vec<u8> {
    let mut code = Vec::with_capacity(count * LEN as usize);
    for index in 0..count as u64 {
        // endbr64; jmp qword ptr [rip + distance]
        code.extend([0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25]);
        // Counted from the end of the instruction, which is that of the stub.
        let distance = (table + 8 * index).wrapping_sub(LEN * (index + 1));
        code.extend((distance as u32).to_le_bytes());
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stub_jumps_by_its_own_word() {
        let code = code(600, 8192);
        assert_eq!(code.len() as u64, 600 * LEN);
        for (index, stub) in code.as_chunks::<10>().0.iter().enumerate() {
            assert_eq!(stub[..6], [0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25]);
            let end = 10 * (index as i64 + 1);
            let distance = i64::from(i32::from_le_bytes(*stub.last_chunk().unwrap()));
            assert_eq!(end + distance, 8192 + 8 * index as i64);
        }
    }
}
