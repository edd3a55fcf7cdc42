//! What a snapshot says of itself: what it fits, which pages it has, and which words are left to be written.
//!
//! The file is a header, the manifest, and pages:
//!
//! ```text
//! 0    magic, version of the format, page size
//! 16   length of header and manifest, length of the file
//! 32   hash of all pages
//! 64   seal: keyed hash of header and manifest, this field taken as zero
//! 96   manifest, then zeros up to a page
//!      pages
//! ```
//!
//! Nothing in it is an address to be called: functions are named by the relocation or symbol of the library that has
//! them, and looked up there.

use std::borrow::Cow;

use super::bytes::{Cut, Field, List, Reader, fields};
use super::remaining::Fixup;

pub(crate) const MAGIC: [u8; 8] = *b"soload\0S";
pub(crate) const VERSION: u32 = 9;
const HEADER: usize = 96;
const SEAL_AT: usize = 64;

/// Header and manifest, and zeros up to a page: the widest real closure has a megabyte.
const MANIFEST_MAX: u64 = 1 << 28;

pub(crate) type Hash = [u8; 32];

/// Everything but the pages. What has been read is left where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest<'a> {
    /// What it fits, as [`super::scope`] writes it.
    pub(crate) scope: Cow<'a, [u8]>,
    /// The objects it has pages of, in the order of the group.
    pub(crate) members: List<'a, Member<'a>>,
    /// Names of functions that libraries get from the loader.
    pub(crate) names: List<'a, Cow<'a, [u8]>>,
    /// Unique symbols that its words refer to.
    pub(crate) unique: List<'a, Unique<'a>>,
    /// Functions that its words lead to by stubs, in the order of those.
    pub(crate) functions: List<'a, Function>,
}
fields!(Manifest, Manifest<'a> {
    scope: Cow<'a, [u8]>,
    members: List<'a, Member<'a>>,
    names: List<'a, Cow<'a, [u8]>>,
    unique: List<'a, Unique<'a>>,
    functions: List<'a, Function>,
});

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    pub(crate) path: Cow<'a, [u8]>,
    /// The file as it was: device, inode, size, times of the last change of content and of anything.
    pub(crate) file: FileStamp,
    /// Hash of the file's content.
    pub(crate) content: Hash,
    /// Where its reservation starts.
    pub(crate) start: u64,
    pub(crate) pages: List<'a, Pages>,
    /// Providers that its words refer to.
    pub(crate) bound_to: List<'a, u16>,
    pub(crate) host: List<'a, HostWord>,
    pub(crate) imports: List<'a, ImportWord>,
    pub(crate) resolved: List<'a, ResolvedWord>,
    pub(crate) thread_local: List<'a, ThreadLocalWord>,
    /// 1 if `DT_INIT` does nothing.
    pub(crate) idle: u8,
    /// For each word of `DT_INIT_ARRAY` the number of the relocation that writes it, [`IN_PLACE`], [`AS_IT_IS`] or [`IDLE`].
    pub(crate) init: List<'a, u32>,
    /// The same of `DT_FINI_ARRAY`.
    pub(crate) fini: List<'a, u32>,
}
fields!(Member, Member<'a> {
    path: Cow<'a, [u8]>,
    file: FileStamp,
    content: Hash,
    start: u64,
    pages: List<'a, Pages>,
    bound_to: List<'a, u16>,
    host: List<'a, HostWord>,
    imports: List<'a, ImportWord>,
    resolved: List<'a, ResolvedWord>,
    thread_local: List<'a, ThreadLocalWord>,
    idle: u8,
    init: List<'a, u32>,
    fini: List<'a, u32>,
});

impl Member<'_> {
    /// The words that each process writes itself: why, where, and how many bytes.
    pub(crate) fn words(&self) -> impl Iterator<Item = (Fixup, u64, u64)> + '_ {
        let host = self.host.iter().map(|word| (Fixup::Host, word.place.into(), 8));
        let imports = self.imports.iter().map(|word| (Fixup::Loader, word.place, 8));
        let resolved = self.resolved.iter().map(|word| (Fixup::Ifunc, word.place, word.bytes.max(1).into()));
        let thread_local = self.thread_local.iter().map(|word| {
            let bytes = if super::kind_of(word.kind) == Some(crate::arch::Kind::TlsDescriptor) { 16 } else { 8 };
            (Fixup::ThreadLocal, word.place, bytes)
        });
        host.chain(imports).chain(resolved).chain(thread_local)
    }
}

/// The word of an array of functions is the one in the file, moved by the load bias.
pub(crate) const IN_PLACE: u32 = u32::MAX;
/// No relocation writes it: 0 or -1, as old linkers put around lists of functions.
pub(crate) const AS_IT_IS: u32 = u32::MAX - 1;
/// The function does nothing, and is not called.
pub(crate) const IDLE: u32 = u32::MAX - 2;

/// Which file, and when it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified: i64,
    pub(crate) modified_nanos: i64,
    pub(crate) changed: i64,
    pub(crate) changed_nanos: i64,
}
fields!(FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: i64,
    modified_nanos: i64,
    changed: i64,
    changed_nanos: i64,
});

/// The pages of one mapping of an object's plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    /// Its number in the plan.
    pub(crate) map: u32,
    /// Where its pages are in the snapshot.
    pub(crate) offset: u64,
    pub(crate) len: u64,
}
fields!(Pages { map: u32, offset: u64, len: u64 });

/// A word that refers to an object of the host, which is elsewhere in each process. There are many, and nearly all files are
/// shorter than 4 GiB: so are those that have such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostWord {
    pub(crate) place: u32,
    /// What the provider's load bias is added to.
    pub(crate) value: u32,
    pub(crate) provider: u16,
}
fields!(HostWord { place: u32, value: u32, provider: u16 });

/// A word that refers to a function of the loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImportWord {
    pub(crate) place: u64,
    pub(crate) plus: u64,
    pub(crate) name: u32,
}
fields!(ImportWord { place: u64, plus: u64, name: u32 });

/// A word that an IFUNC resolver decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedWord {
    pub(crate) place: u64,
    pub(crate) plus: u64,
    pub(crate) bytes: u8,
    /// The object that has the resolver.
    pub(crate) provider: u16,
    /// Its symbol there, or the number of the relocation of its own that says where it is.
    pub(crate) number: u32,
    /// 1 if `number` is a symbol.
    pub(crate) symbol: u8,
}
fields!(ResolvedWord { place: u64, plus: u64, bytes: u8, provider: u16, number: u32, symbol: u8 });

/// A word that says where thread-local storage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadLocalWord {
    pub(crate) place: u64,
    pub(crate) offset: u64,
    pub(crate) provider: u16,
    /// [`super::scope`] has the numbers.
    pub(crate) kind: u8,
}
fields!(ThreadLocalWord { place: u64, offset: u64, provider: u16, kind: u8 });

/// A unique symbol that words refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unique<'a> {
    pub(crate) name: Cow<'a, [u8]>,
    pub(crate) provider: u16,
    /// Its number in the provider's symbol table.
    pub(crate) symbol: u32,
}
fields!(Unique, Unique<'a> { name: Cow<'a, [u8]>, provider: u16, symbol: u32 });

/// A function that is elsewhere in each process, and has a stub that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Function {
    /// The object of the host that has it, or [`LOADER`].
    pub(crate) provider: u16,
    /// Its symbol there; of the loader's, the number of its name.
    pub(crate) number: u32,
}
fields!(Function { provider: u16, number: u32 });

/// Functions with stubs in one snapshot: more than the C library has.
pub(crate) const FUNCTIONS_MAX: usize = 4096;

/// Where the objects of the scope are numbered: the loader itself.
pub(crate) const LOADER: u16 = u16::MAX;

/// The header of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) page: u32,
    /// Header and manifest.
    pub(crate) head: u64,
    /// The whole file.
    pub(crate) len: u64,
    pub(crate) pages: Hash,
}

/// Why bytes are not a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Magic,
    Version(u32),
    Length,
    Seal,
    Content,
}

impl From<Cut> for Damage {
    fn from(Cut: Cut) -> Self {
        Self::Content
    }
}

/// The hash of the format and of what a snapshot fits: its name in a directory. So programs that know other formats keep
/// their own.
pub(crate) fn key(scope: &[u8]) -> Hash {
    *blake3::Hasher::new_derive_key("soload snapshot 3 key")
        .update(&VERSION.to_le_bytes())
        .update(scope)
        .finalize()
        .as_bytes()
}

pub(crate) fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

impl<'a> Manifest<'a> {
    /// Header and manifest as bytes, zeros up to a whole page included. `pages` is what follows.
    pub(crate) fn encode(&self, page: u32, pages: Hash, pages_len: u64, secret: &Hash) -> Vec<u8> {
        let mut body = vec![0; HEADER];
        self.put(&mut body);
        let head = body.len() as u64;
        body.resize(body.len().next_multiple_of(page as usize), 0);
        let len = body.len() as u64 + pages_len;
        let mut header = Vec::with_capacity(HEADER);
        MAGIC.put(&mut header);
        VERSION.put(&mut header);
        page.put(&mut header);
        head.put(&mut header);
        len.put(&mut header);
        pages.put(&mut header);
        body[..SEAL_AT].copy_from_slice(&header);
        let seal = blake3::keyed_hash(secret, &body);
        body[SEAL_AT..HEADER].copy_from_slice(seal.as_bytes());
        body
    }

    /// Counts the offsets of pages from `to` where they were counted from `from`.
    pub(crate) fn pages_from(&mut self, to: u64, from: u64) {
        for pages in self.members.to_mut().iter_mut().flat_map(|member| member.pages.to_mut()) {
            pages.offset = pages.offset.wrapping_sub(from).wrapping_add(to);
        }
    }

    /// Bytes that [`Manifest::encode`] makes of it, without the pages.
    pub(crate) fn encoded_len(&self, page: u32) -> u64 {
        let mut body = vec![0; HEADER];
        self.put(&mut body);
        body.len().next_multiple_of(page as usize) as u64
    }

    /// The manifest in `bytes`, the first `header.head` ones of a file of `header.len`: sealed with `secret`, and sound.
    pub(crate) fn check(header: &Header, bytes: &'a [u8], secret: &Hash) -> Result<Self, Damage> {
        if bytes.len() as u64 != header.first_page() {
            return Err(Damage::Length);
        }
        let stated: Hash = bytes[SEAL_AT..HEADER].try_into().map_err(|_| Damage::Length)?;
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(&bytes[..SEAL_AT]).update(&[0; HEADER - SEAL_AT]).update(&bytes[HEADER..]);
        // Compared in constant time, as the type does.
        if hasher.finalize() != blake3::Hash::from_bytes(stated) {
            return Err(Damage::Seal);
        }
        let manifest = Self::read(header, bytes)?;
        let first = header.first_page();
        let page = u64::from(header.page);
        let inside = |pages: Pages| {
            pages.offset >= first
                && pages.offset.is_multiple_of(page)
                && pages.len.is_multiple_of(page)
                && pages.len > 0
                && pages.offset.checked_add(pages.len).is_some_and(|end| end <= header.len)
        };
        let few = manifest.functions.len() <= FUNCTIONS_MAX;
        let whole = manifest.names.all(|_| true) && manifest.unique.all(|_| true);
        match few && whole && manifest.members.all(|member| member.pages.all(inside)) {
            true => Ok(manifest),
            false => Err(Damage::Content),
        }
    }

    /// The manifest in bytes that have been checked.
    pub(super) fn read(header: &Header, bytes: &'a [u8]) -> Result<Self, Cut> {
        let mut reader = Reader::new(bytes.get(HEADER..header.head as usize).ok_or(Cut)?);
        let manifest: Self = reader.read()?;
        reader.end()?;
        Ok(manifest)
    }
}

impl Header {
    /// Bytes of it.
    pub(crate) const LEN: usize = HEADER;

    /// The header at the start of a file of `len` bytes.
    pub(crate) fn decode(bytes: &[u8], len: u64) -> Result<Self, Damage> {
        let mut reader = Reader::new(bytes);
        if reader.read::<[u8; 8]>().map_err(|_| Damage::Length)? != MAGIC {
            return Err(Damage::Magic);
        }
        let version = reader.read::<u32>()?;
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let header = Self { page: reader.read()?, head: reader.read()?, len: reader.read()?, pages: reader.read()? };
        let sound = header.len == len
            && header.page.is_power_of_two()
            && header.page >= 4096
            && (HEADER as u64..MANIFEST_MAX).contains(&header.head)
            && header.first_page() <= len.min(MANIFEST_MAX)
            && len.is_multiple_of(header.page.into());
        if sound { Ok(header) } else { Err(Damage::Length) }
    }

    /// Where the pages begin.
    pub(crate) fn first_page(&self) -> u64 {
        self.head.next_multiple_of(u64::from(self.page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest<'static> {
        let stamp =
            FileStamp { device: 1, inode: 2, size: 3, modified: -4, modified_nanos: 5, changed: 6, changed_nanos: 7 };
        let member = Member {
            path: b"/lib/liba.so".into(),
            file: stamp,
            content: [9; 32],
            start: 0x1234_0000,
            pages: vec![Pages { map: 3, offset: 4096, len: 4096 }].into(),
            bound_to: vec![0, 2].into(),
            host: vec![HostWord { place: 0x1000, value: 0x2000, provider: 1 }].into(),
            imports: vec![ImportWord { place: 0x1008, plus: 8, name: 0 }].into(),
            resolved: vec![ResolvedWord { place: 0x1010, plus: 0, bytes: 8, provider: 0, number: 7, symbol: 1 }].into(),
            thread_local: vec![ThreadLocalWord { place: 0x1018, offset: 16, provider: 0, kind: 2 }].into(),
            idle: 1,
            init: vec![1, IN_PLACE].into(),
            fini: vec![].into(),
        };
        let unique = Unique { name: b"u".into(), provider: 0, symbol: 3 };
        Manifest {
            scope: b"scope".into(),
            members: vec![member].into(),
            names: vec![b"dlopen".into()].into(),
            unique: vec![unique].into(),
            functions: vec![Function { provider: 1, number: 9 }, Function { provider: LOADER, number: 0 }].into(),
        }
    }

    fn decode<'a>(bytes: &'a [u8], secret: &Hash) -> Result<Manifest<'a>, Damage> {
        let header = Header::decode(bytes, bytes.len() as u64)?;
        let head = bytes.get(..header.first_page() as usize).ok_or(Damage::Length)?;
        Manifest::check(&header, head, secret)
    }

    #[test]
    fn what_is_written_is_read_back_and_every_flipped_bit_of_header_and_manifest_is_noticed() {
        let (manifest, secret) = (manifest(), [7; 32]);
        let mut file = manifest.encode(4096, hash(&[1; 4096]), 4096, &secret);
        file.extend([1; 4096]);
        assert_eq!(decode(&file, &secret), Ok(manifest.clone()));
        for bit in 0..4096 * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, &secret).is_err(), "bit {bit}");
        }
        for len in 0..file.len() {
            assert!(decode(&file[..len], &secret).is_err(), "{len} bytes");
        }
        assert_eq!(decode(&file, &[8; 32]), Err(Damage::Seal), "made in another session");
    }

    #[test]
    fn a_header_that_states_pages_of_any_size_does_not_decide_how_much_is_read() {
        let header = |page: u32, len: u64| {
            let mut header = manifest().encode(4096, [0; 32], 0, &[7; 32]);
            header[12..16].copy_from_slice(&page.to_le_bytes());
            header[24..32].copy_from_slice(&len.to_le_bytes());
            Header::decode(&header[..HEADER], len).map(|header| header.first_page())
        };
        assert_eq!(header(1 << 16, 1 << 16), Ok(1 << 16));
        assert_eq!(header(1 << 31, 1 << 31), Err(Damage::Length));
    }

    #[test]
    fn more_functions_than_have_room_are_refused_whatever_the_seal_says() {
        for (count, read) in [(FUNCTIONS_MAX, true), (FUNCTIONS_MAX + 1, false)] {
            let mut manifest =
                Manifest { functions: vec![Function { provider: 0, number: 1 }; count].into(), ..manifest() };
            manifest.pages_from(manifest.encoded_len(4096), 4096);
            let mut file = manifest.encode(4096, [0; 32], 4096, &[7; 32]);
            file.extend([1; 4096]);
            assert_eq!(decode(&file, &[7; 32]), if read { Ok(manifest) } else { Err(Damage::Content) });
        }
    }

    #[test]
    fn pages_outside_of_the_file_are_refused_whatever_the_seal_says() {
        for (offset, len) in [(0, 4096), (4096, 8192), (4096, 0), (4097, 4096), (4096, 1), (!4095, 8192)] {
            let mut manifest = manifest();
            manifest.members.to_mut()[0].pages.to_mut()[0] = Pages { map: 3, offset, len };
            let mut file = manifest.encode(4096, [0; 32], 4096, &[7; 32]);
            file.extend([1; 4096]);
            assert_eq!(decode(&file, &[7; 32]), Err(Damage::Content), "{offset:#x} {len:#x}");
        }
    }

    #[test]
    fn lists_that_end_inside_a_value_are_refused_whatever_the_seal_says() {
        let cut: &[u8] = &[5, 0, 0, 0, b'x'];
        let all = [
            Manifest { members: List::Read(cut), ..manifest() },
            Manifest { names: List::Read(cut), ..manifest() },
            Manifest { unique: List::Read(cut), ..manifest() },
        ];
        for manifest in all {
            let mut file = manifest.encode(4096, [0; 32], 4096, &[7; 32]);
            file.extend([1; 4096]);
            assert_eq!(decode(&file, &[7; 32]), Err(Damage::Content));
        }
    }
}
