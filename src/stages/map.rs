//! Mapping: every new member gets its addresses, and its tables are read where they now are.

use std::sync::Arc;

use super::Placed;
use super::enter::Planned;
use crate::addr::Vaddr;
use crate::error::{At, Error, ErrorKind};
use crate::file::image::Image;
use crate::file::relocations::Relocations;
use crate::file::symbols::Symbols;
use crate::find::graph::New;
use crate::load::group::Group;
use crate::load::map::{MappedImage, Mapping};
use crate::load::plan::{Plan, Written};
use crate::load::scope::Provider;
use crate::loader::Wishes;
use crate::process::lazy::Link;
use crate::process::module::{Instance, Object};
use crate::process::registry;
use crate::process::storage::Storage;

/// A member that has been mapped.
pub(crate) struct Mapped {
    pub(super) new: Box<New>,
    pub(super) mapping: Arc<Mapping>,
    pub(super) symbols: Arc<Symbols>,
    pub(super) relocations: Relocations,
    /// Its unwind records, if they are fit to be registered.
    pub(super) frames: Option<Vaddr>,
    /// Its thread-local storage, once sealing has got it.
    pub(super) storage: Option<Storage>,
    /// What binds its functions at their first call, if that is put off.
    pub(super) link: Option<Box<Link>>,
    /// Code of ours that its calls of the host go through, if they do.
    pub(super) stubs: Option<Arc<Mapping>>,
    /// Which library it is, if it lies where it lies in all processes of the session.
    pub(super) shared: Option<[u8; 32]>,
}

impl Mapped {
    pub(super) fn provider(&self) -> Provider<'_> {
        Provider { symbols: &self.symbols, bias: self.mapping.bias(), file: &*self.new.image }
    }
}

/// Maps every new member to its place, and reads its tables where they now are.
pub(crate) fn map(group: Planned, placed: &Placed, wishes: &Wishes) -> Result<Group<Object, Box<Mapped>>, Error> {
    let namespace = wishes.namespace;
    let instance = |(_, (new, _)): (usize, &(Box<New>, _))| Instance { namespace, file: new.image.identity() };
    registry::wait_until_gone(&group.new_members().map(instance).collect::<Vec<_>>());
    group.advance(|index, (mut new, mut plan)| {
        let mapped = (|| {
            if wishes.huge_pages {
                plan.align_for_huge_pages();
            }
            let place = placed.of(index);
            let written = if place.pages.is_some() { None } else { written(&plan, &new.image) };
            let mapping = Mapping::new(&plan, &mut new.image, &place, written.as_ref())?;
            if wishes.huge_pages {
                mapping.prefer_huge_pages(&plan);
            }
            let source = MappedImage { mapping: &mapping, image: &new.image };
            let no_dynamic = || ErrorKind::malformed("PT_DYNAMIC", At::Object, "a dynamic section", "none");
            let symbols = new.image.symbols(&source)?.ok_or_else(no_dynamic)?;
            let relocations = new.image.relocations(&source)?.ok_or_else(no_dynamic)?;
            let frames = new.image.frames(&source);
            Ok((mapping, symbols, relocations, frames))
        })();
        match mapped {
            Ok((mapping, symbols, relocations, frames)) => Ok(Box::new(Mapped {
                new,
                mapping: Arc::new(mapping),
                symbols: Arc::new(symbols),
                relocations,
                frames,
                storage: None,
                link: None,
                stubs: None,
                shared: None,
            })),
            Err(kind) => Err(Error::new(new.image.path(), kind)),
        }
    })
}

/// Which pages relocation is going to write to, as its tables in the file say.
fn written(plan: &Plan, image: &Image) -> Option<Written> {
    let relocations = image.relocations(&image.source()).ok()??;
    Written::of(plan, &relocations, image.machine()?.relative)
}
