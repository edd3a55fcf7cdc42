//! Mapping: every new member gets its addresses, and its tables are read where they now are.

use std::sync::Arc;

use super::Placed;
use super::enter::Planned;
use crate::error::{At, Error, ErrorKind};
use crate::file::image::Image;
use crate::file::plan::Plan;
use crate::file::relocations::Relocations;
use crate::file::symbols::Symbols;
use crate::find::graph::New;
use crate::guard::Lease;
use crate::load::call::Functions;
use crate::load::group::Group;
use crate::load::map::{MappedImage, Mapping};
use crate::load::relocate::Outcome;
use crate::load::scope::Provider;
use crate::load::written::Written;
use crate::loader::Wishes;
use crate::process::lazy::Link;
use crate::process::module::{Instance, Object, ProgramHeaders, Shared};
use crate::process::registry;
use crate::process::storage::Storage;
use crate::process::symbols::LateSymbols;
use crate::process::unwind::Frames;

/// A member that has been mapped, and what has come of it since.
pub(crate) struct Mapped {
    /// Before the mapping: fields are dropped in this order, and the unwinder reads what is mapped.
    pub(super) frames: Option<Frames>,
    /// Before the mapping, too.
    pub(super) lease: Option<Lease>,
    pub(super) new: Box<New>,
    pub(super) mapping: Arc<Mapping>,
    pub(super) symbols: Arc<LateSymbols>,
    pub(super) relocations: Relocations,
    pub(super) headers: ProgramHeaders,
    /// What binding has left to do, and to remember.
    pub(super) outcome: Outcome,
    /// Its constructors and destructors, once sealing has checked them.
    pub(super) functions: Functions,
    /// Its thread-local storage, once sealing has got it.
    pub(super) storage: Option<Box<Storage>>,
    /// What binds its functions at their first call, if that is put off.
    pub(super) link: Option<Box<Link>>,
    /// Code of ours that its calls of the host go through, if they do.
    pub(super) stubs: Option<Arc<Mapping>>,
    /// Which library it is in all processes of the session.
    pub(super) shared: Option<Box<Shared>>,
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
            let written = if place.kept.is_some() { None } else { written(&plan, &new.image) };
            let mapping = Arc::new(Mapping::new(&plan, &mut new.image, place, written)?);
            if wishes.huge_pages {
                mapping.prefer_huge_pages(&plan);
            }
            let source = MappedImage { mapping: &mapping, image: &new.image };
            let no_dynamic = || ErrorKind::malformed("PT_DYNAMIC", At::Object, "a dynamic section", "none");
            let dynamic = new.image.dynamic().ok_or_else(no_dynamic)?;
            let (class, machine) = (new.image.class(), new.image.header().machine);
            // Nothing is looked up in an object that has been kept.
            let symbols = match place.kept.and_then(|_| later(&mapping, &new.image)) {
                Some(symbols) => symbols,
                None => Symbols::read(&dynamic.symbols, &source, class)?.into(),
            };
            let relocations = Relocations::read(dynamic, &source, class, machine)?;
            let headers = headers(&new.image, &mapping)?;
            Ok((mapping, symbols, relocations, headers))
        })();
        match mapped {
            Ok((mapping, symbols, relocations, headers)) => Ok(Box::new(Mapped {
                frames: None,
                lease: None,
                new,
                mapping,
                symbols: Arc::new(symbols),
                relocations,
                headers,
                outcome: Outcome::default(),
                functions: Functions::default(),
                storage: None,
                link: None,
                stubs: None,
                shared: None,
            })),
            Err(kind) => Err(Error::new(new.image.path(), kind)),
        }
    })
}

/// Its program headers, where they lie in its own memory if they do and may be read there as they are.
fn headers(image: &Image, mapping: &Arc<Mapping>) -> Result<ProgramHeaders, ErrorKind> {
    let own = image.headers_at().filter(|at| at.start.0.is_multiple_of(align_of::<libc::Elf64_Phdr>() as u64));
    match own.and_then(|at| mapping.constant(at.start, Some(at.end.0 - at.start.0))) {
        Some(bytes) => Ok(ProgramHeaders::InPlace(bytes)),
        None => image.raw_headers().map(ProgramHeaders::Copied),
    }
}

/// Its symbols, to be read when they are asked for.
fn later(mapping: &Arc<Mapping>, image: &Image) -> Option<LateSymbols> {
    LateSymbols::later(mapping, image.dynamic()?, image.class(), image.byte_order())
}

/// Which pages relocation is known to write to, as its tables in the file say.
fn written(plan: &Plan, image: &Image) -> Option<Written> {
    Written::of(plan, || image.relocations(&image.source()).ok()?, image.machine()?.relative)
}
