//! Small shared objects of any class, byte order and machine, made by hand: no toolchain here makes them.

/// What is to be made. By default a sound file for x86-64.
pub(crate) struct Foreign {
    /// 64-bit.
    pub(crate) wide: bool,
    /// Most significant byte first.
    pub(crate) big: bool,
    pub(crate) machine: u16,
    /// `DT_RELA`, not `DT_REL`.
    pub(crate) addends: bool,
    pub(crate) soname: &'static str,
    /// What `DT_RELA` says instead of where the relocations are.
    pub(crate) relocations_at: Option<u64>,
    /// `p_filesz` of the second segment.
    pub(crate) file_size: u64,
}

impl Default for Foreign {
    fn default() -> Self {
        Self {
            wide: true,
            big: false,
            machine: 62,
            addends: true,
            soname: "libself.so",
            relocations_at: None,
            file_size: DATA_SIZE,
        }
    }
}

/// Where things are: tables in the first segment, the dynamic section and what is relocated in the second.
const SYMBOLS: u64 = 0x180; // all zeros: the undefined one
const STRINGS: u64 = 0x200;
const RELOCATIONS: u64 = 0x280;
const DATA: u64 = 0x1000;
const DATA_VADDR: u64 = 0x1_1000;
const DATA_SIZE: u64 = 0x200;
const RELOCATED: u64 = DATA_VADDR + 0x180;

/// A type that no machine has a meaning for.
const NO_SUCH_TYPE: u64 = 239;

impl Foreign {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = Bytes { bytes: vec![0; (DATA + DATA_SIZE) as usize], at: 0, big: self.big };
        let word = if self.wide { 8 } else { 4 };
        self.put_header(&mut file, word);

        let strings = format!("\0libneeded.so\0{}\0", self.soname);
        let start = STRINGS as usize;
        file.bytes[start..start + strings.len()].copy_from_slice(strings.as_bytes());

        let relative = soload::Machine::of(self.machine).map_or(8, |machine| {
            let kinds = machine.relocations.iter();
            kinds.clone().find(|row| row.kind == soload::Kind::Relative).map_or(8, |row| row.number)
        });
        file.at = RELOCATIONS as usize;
        for (number, kind) in [u64::from(relative), u64::from(relative), NO_SUCH_TYPE].into_iter().enumerate() {
            file.put(word, RELOCATED + number as u64 * word);
            file.put(word, kind);
            if self.addends {
                file.put(word, 0);
            }
        }

        let entry = if self.addends { 3 * word } else { 2 * word };
        let (table, size, entry_size) = if self.addends { (7, 8, 9) } else { (17, 18, 19) };
        file.at = DATA as usize;
        for (tag, value) in [
            (1, 1),                                  // DT_NEEDED
            (14, 1 + "libneeded.so\0".len() as u64), // DT_SONAME
            (5, STRINGS),
            (6, SYMBOLS),
            (10, strings.len() as u64), // DT_STRSZ
            (table, self.relocations_at.unwrap_or(RELOCATIONS)),
            (size, 3 * entry),
            (entry_size, entry),
            (0, 0),
        ] {
            file.put(word, tag);
            file.put(word, value);
        }
        file.bytes
    }

    fn put_header(&self, file: &mut Bytes, word: u64) {
        let (header, program_header) = if self.wide { (64, 56) } else { (52, 32) };
        file.bytes[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(self.wide), 1 + u8::from(self.big), 1]);
        file.at = 16;
        file.put(2, 3); // ET_DYN
        file.put(2, self.machine.into());
        file.put(4, 1);
        file.put(word, 0);
        file.put(word, header);
        file.put(word, 0);
        file.put(4, 0);
        for half in [header, program_header, 4, 0, 0, 0] {
            file.put(2, half);
        }
        // Type, flags, offset, address, size in the file, size in memory, alignment.
        for [kind, flags, offset, vaddr, file_size, memory_size, align] in [
            [1, 4, 0, 0, 0x400, 0x400, 0x1_0000],
            [1, 6, DATA, DATA_VADDR, self.file_size, 0x3000, 0x1_0000],
            [2, 6, DATA, DATA_VADDR, 18 * word, 18 * word, word],
            [0x6474_e551, 6, 0, 0, 0, 0, 16],
        ] {
            file.put(4, kind);
            if self.wide {
                file.put(4, flags);
            }
            for number in [offset, vaddr, vaddr, file_size, memory_size] {
                file.put(word, number);
            }
            if !self.wide {
                file.put(4, flags);
            }
            file.put(word, align);
        }
    }
}

struct Bytes {
    bytes: Vec<u8>,
    at: usize,
    big: bool,
}

impl Bytes {
    /// Puts a number of so many bytes.
    fn put(&mut self, size: u64, number: u64) {
        let size = size as usize;
        let place = &mut self.bytes[self.at..self.at + size];
        match self.big {
            true => place.copy_from_slice(&number.to_be_bytes()[8 - size..]),
            false => place.copy_from_slice(&number.to_le_bytes()[..size]),
        }
        self.at += size;
    }
}
