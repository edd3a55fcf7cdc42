//! What a snapshot fits: the objects that its libraries are bound among, in order, each by its file and its place.
//!
//! Binding goes by nothing else: the same objects in the same order at the same places give the same words. So nothing is
//! looked up to find out whether a snapshot fits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::bytes::{Cut, Field, Reader, fields};
use super::manifest::{FileStamp, Hash};
use crate::addr::Addr;
use crate::arch::Kind;
use crate::error::Escaped;

/// All that the words of a snapshot follow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fits<'a> {
    /// The version of this crate: another one may bind otherwise.
    pub(crate) version: Cow<'a, [u8]>,
    pub(crate) page: u32,
    /// 1 if libraries get our `dlopen` and its companions.
    pub(crate) imports: u8,
    pub(crate) providers: Vec<Provider<'a>>,
    /// The order in which providers are asked.
    pub(crate) order: Vec<u16>,
    /// The providers that the snapshot has pages of, in the order of the group.
    pub(crate) members: Vec<u16>,
    /// Where stubs are that calls of the host go through, if there are any.
    pub(crate) stubs: u64,
}
fields!(Fits, Fits<'a> {
    version: Cow<'a, [u8]>,
    page: u32,
    imports: u8,
    providers: Vec<Provider<'a>>,
    order: Vec<u16>,
    members: Vec<u16>,
    stubs: u64,
});

/// An object that has definitions for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provider<'a> {
    /// Its file's name, for people.
    pub(crate) name: Cow<'a, [u8]>,
    /// Which library it is, see [`library_id`].
    pub(crate) id: Hash,
    /// Where it starts; 0 for an object of the host, which is elsewhere in each process.
    pub(crate) start: u64,
}
fields!(Provider, Provider<'a> { name: Cow<'a, [u8]>, id: Hash, start: u64 });

impl<'a> Fits<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Names of files are shorter than that, mostly.
        let mut bytes = Vec::with_capacity(128 + 96 * self.providers.len());
        self.put(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let fits = reader.read().ok()?;
        reader.end().ok()?;
        Some(fits)
    }

    /// Where the pages of each library have to be.
    pub(crate) fn places(&self) -> BTreeMap<Hash, Addr> {
        let known = self.members.iter().filter_map(|number| self.providers.get(usize::from(*number)));
        known.map(|provider| (provider.id, Addr(provider.start as usize))).collect()
    }

    /// Why a snapshot that fits this does not fit `other`, in words.
    pub(crate) fn difference(&self, other: &Self) -> String {
        if self.version != other.version || self.page != other.page || self.imports != other.imports {
            return "made by another version of soload, or for another size of pages".into();
        }
        let name = |provider: Option<&Provider<'_>>| {
            provider.map_or("nothing".into(), |provider| format!("{}", Escaped(&provider.name)))
        };
        for index in 0..self.providers.len().max(other.providers.len()) {
            let (made, found) = (self.providers.get(index), other.providers.get(index));
            if made == found {
                continue;
            }
            let nth = index + 1;
            return match (made, found) {
                (Some(made), Some(found)) if made.id == found.id => {
                    format!("made with {} at another address", Escaped(&made.name))
                }
                (Some(made), Some(found)) if made.name == found.name => {
                    format!("made with another {}", Escaped(&made.name))
                }
                _ => format!("made with {} as object {nth} of the scope, which is {}", name(made), name(found)),
            };
        }
        "made for another order, or for more or fewer libraries at once".into()
    }
}

/// Which library it is: its build id and size or, without one, the very file.
pub(crate) fn library_id(build_id: Option<&[u8]>, file: &FileStamp) -> Hash {
    // Told from all other hashes by its key: to derive one anew each time would take as long again.
    const KEY: &Hash = b"soload snapshot: which library. ";
    // Build ids are hashes themselves, and nearly all leave room for the size: behind them, as others go by the first bytes.
    if let Some(id) = build_id.filter(|id| (MANY_AS_RANDOM..=BUILD_ID).contains(&id.len())) {
        let mut own = [0; 32];
        own[..id.len()].copy_from_slice(id);
        own[BUILD_ID..][..4].copy_from_slice(&(id.len() as u32).to_le_bytes());
        own[BUILD_ID + 4..].copy_from_slice(&file.size.to_le_bytes());
        return own;
    }
    let mut text = Vec::with_capacity(64);
    match build_id {
        Some(id) => {
            (id.len() as u32).put(&mut text);
            text.extend(id);
            file.size.put(&mut text);
        }
        None => {
            u32::MAX.put(&mut text);
            file.put(&mut text);
        }
    }
    *blake3::keyed_hash(KEY, &text).as_bytes()
}

/// Bytes of the build ids that linkers make (SHA-1).
const BUILD_ID: usize = 20;

/// Bytes that make a build id as good as random.
const MANY_AS_RANDOM: usize = 16;

/// Which object of the host it is: its build id, and the numbers of its headers and dynamic section.
pub(crate) fn object_id(build_id: &[u8], layout: impl Iterator<Item = u64>) -> Hash {
    let mut text = Vec::with_capacity(256);
    Cow::from(build_id).put(&mut text);
    layout.for_each(|number| number.put(&mut text));
    blake3::derive_key("soload snapshot 1 object", &text)
}

/// Which library it is, once its content is known too.
pub(crate) fn content_id(id: &Hash, content: &Hash) -> Hash {
    const KEY: &Hash = b"soload snapshot: what is in it..";
    *blake3::keyed_hash(KEY, [*id, *content].as_flattened()).as_bytes()
}

/// Whose stubs they are: those of a group of libraries.
pub(crate) fn stubs_id<'a>(libraries: impl Iterator<Item = &'a Hash>) -> Hash {
    blake3::derive_key("soload snapshot 2 stubs", &libraries.flatten().copied().collect::<Vec<u8>>())
}

/// The name of a file, for people.
pub(crate) fn file_name(path: &Path) -> Cow<'_, [u8]> {
    let path = path.as_os_str().as_bytes();
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path).into()
}

/// The kinds of thread-local words, as a snapshot numbers them.
const KINDS: [Kind; 4] = [Kind::TlsModule, Kind::TlsOffset, Kind::ThreadOffset, Kind::TlsDescriptor];

pub(crate) fn kind_number(kind: Kind) -> Option<u8> {
    KINDS.iter().position(|known| *known == kind).map(|index| index as u8)
}

pub(crate) fn kind_of(number: u8) -> Option<Kind> {
    KINDS.get(usize::from(number)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits() -> Fits<'static> {
        let provider =
            |name: &'static str, start| Provider { name: name.as_bytes().into(), id: [name.len() as u8; 32], start };
        Fits {
            version: b"1".into(),
            page: 4096,
            imports: 1,
            providers: vec![provider("libc.so.6", 0), provider("liba.so", 0x1000)],
            order: vec![0, 1],
            members: vec![1],
            stubs: 0x9000,
        }
    }

    #[test]
    fn which_library_it_is_depends_on_each_bit_of_the_build_id_its_length_and_the_size() {
        let file = |size| FileStamp {
            device: 1,
            inode: 2,
            size,
            modified: 3,
            modified_nanos: 4,
            changed: 5,
            changed_nanos: 6,
        };
        for len in [1, 15, 16, 20, 21, 64] {
            let id = vec![0x5a; len];
            let mut all = vec![library_id(Some(&id), &file(9)), library_id(Some(&id), &file(10))];
            all.push(library_id(Some(&[&id[..], &[0]].concat()), &file(9)));
            all.push(library_id(None, &file(9)));
            for bit in 0..8 * len {
                let mut other = id.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                all.push(library_id(Some(&other), &file(9)));
            }
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count, "{len} bytes");
        }
    }

    #[test]
    fn every_difference_has_its_words() {
        let fits = fits();
        assert_eq!(Fits::decode(&fits.encode()).as_ref(), Some(&fits));
        let said = |change: fn(&mut Fits<'_>)| {
            let mut other = fits.clone();
            change(&mut other);
            assert_ne!(other.encode(), fits.encode());
            fits.difference(&other)
        };
        assert_eq!(said(|fits| fits.providers[1].start = 0), "made with liba.so at another address");
        assert_eq!(said(|fits| fits.providers[0].id = [0; 32]), "made with another libc.so.6");
        assert_eq!(
            said(|fits| fits.providers.insert(0, Provider { name: b"libp.so".into(), id: [0; 32], start: 0 })),
            "made with libc.so.6 as object 1 of the scope, which is libp.so"
        );
        assert!(said(|fits| fits.order.reverse()).starts_with("made for another order"));
        assert!(said(|fits| fits.page = 0).starts_with("made by another version"));
    }
}
