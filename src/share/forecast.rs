//! The forecast: which pages of an image relocation will make private, told from the file alone.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::addr::{PageSize, Vaddr};
use crate::arch::Kind;
use crate::error::{Error, ErrorKind};
use crate::file::dynamic::is_rebased;
use crate::file::image::Image;
use crate::file::plan::Plan;
use crate::file::relocations::What;

/// Why loading an image writes to a page.
///
/// ```
/// assert_eq!(soload::Cause::Ifunc.name(), "ifunc");
/// assert_eq!(soload::Cause::ALL.len(), 6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// A pointer into the image itself: only where it is loaded has to be known.
    Relative,
    /// A reference to a symbol, of this image or of another.
    Symbol,
    /// The answer of a resolver function.
    Ifunc,
    /// A reference to thread-local storage.
    ThreadLocal,
    /// The zeros that begin in the middle of a page of the file.
    BssTail,
    /// Entries of the dynamic section, which become addresses in place, as with glibc.
    Dynamic,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Relative, Self::Symbol, Self::Ifunc, Self::ThreadLocal, Self::BssTail, Self::Dynamic];

    /// What it is called in tables.
    ///
    /// ```
    /// assert_eq!(soload::Cause::BssTail.name(), "bss tail");
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Relative => "relative",
            Self::Symbol => "symbol",
            Self::Ifunc => "ifunc",
            Self::ThreadLocal => "TLS",
            Self::BssTail => "bss tail",
            Self::Dynamic => "dynamic",
        }
    }

    /// The cause that a relocation of that meaning is; it writes nothing where there is none.
    const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Relative => Self::Relative,
            Kind::Irelative => Self::Ifunc,
            Kind::TlsModule
            | Kind::TlsOffset
            | Kind::ThreadOffset
            | Kind::NegatedThreadOffset
            | Kind::TlsDescriptor => Self::ThreadLocal,
            Kind::None
            | Kind::Unsupported
            | Kind::Absolute { .. }
            | Kind::SymbolOrRelative
            | Kind::Slot
            | Kind::PcRelative { .. }
            | Kind::Size { .. }
            | Kind::Copy => Self::Symbol,
        }
    }
}

/// How often each [`Cause`] writes to one page.
///
/// ```
/// # use soload::{Cause, Forecast, Image, PageSize, Plan};
/// # let image = Image::open("/proc/self/exe".as_ref())?;
/// # let plan = Plan::of(&image, PageSize::native())?;
/// let forecast = Forecast::of(&image, &plan)?;
/// let writes = forecast.pages.values().next().unwrap();
/// assert!(writes.causes().count() > 0 && writes.causes().all(|cause| writes.by(cause) > 0));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes([u32; Cause::ALL.len()]);

impl Writes {
    /// How many relocations, or entries, of that cause have a byte in the page.
    #[must_use]
    pub const fn by(&self, cause: Cause) -> u32 {
        self.0[cause as usize]
    }

    /// The causes that there are.
    pub fn causes(&self) -> impl Iterator<Item = Cause> {
        let counts = self.0;
        Cause::ALL.into_iter().filter(move |cause| counts[*cause as usize] > 0)
    }
}

/// The pages that loading an image writes to, so that this process has them to itself: the pages of every relocation's
/// target, and those where the zero part of a segment begins in the middle of a page of the file.
///
/// Constructors may write to more. Pages that no file is behind are not counted.
///
/// ```
/// use soload::{Forecast, Image, PageSize, Plan};
/// let image = Image::open("/proc/self/exe".as_ref())?;
/// let plan = Plan::of(&image, PageSize::native())?;
/// let forecast = Forecast::of(&image, &plan)?;
/// let of_the_code: usize =
///     plan.maps().iter().filter(|map| map.protection.execute).map(|map| forecast.count_in(&map.range)).sum();
/// assert!(of_the_code == 0 && !forecast.pages.is_empty());
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forecast {
    /// The size of each page.
    pub page: PageSize,
    /// The starts of the pages, and what writes to each.
    pub pages: BTreeMap<Vaddr, Writes>,
}

impl Forecast {
    /// The forecast for `image` when it is loaded as `plan` says.
    ///
    /// # Errors
    /// The relocation tables lie outside of the file, or contradict themselves.
    pub fn of(image: &Image, plan: &Plan) -> Result<Self, Error> {
        Self::of_image(image, plan).map_err(|kind| Error::new(image.path(), kind))
    }

    fn of_image(image: &Image, plan: &Plan) -> Result<Self, ErrorKind> {
        let mut forecast = Self { page: plan.page, pages: BTreeMap::new() };
        for zeros in plan.zeros() {
            forecast.write(plan, zeros.start, 1, Cause::BssTail);
        }
        forecast.rebase_dynamic(image, plan);
        let Some(relocations) = image.relocations(&image.source())? else { return Ok(forecast) };
        // Only a copy relocation needs them, to say how many bytes it changes.
        let symbols = LazyCell::new(|| image.symbols(&image.source()).ok().flatten());
        let word = image.class().word();
        for relocation in relocations.iter() {
            let kind = match relocation.what {
                What::Relr => Some(Kind::Relative),
                What::Type(number) => {
                    image.machine().and_then(|machine| machine.relocation(number)).map(|row| row.kind)
                }
            };
            let of_symbol = || symbols.as_ref()?.get(relocation.symbol).map(|symbol| symbol.size);
            // Of a type that nobody defines, the usual size is the best guess.
            let bytes = kind.and_then(|kind| kind.width(word)).or_else(of_symbol).unwrap_or(word);
            forecast.write(plan, relocation.place, bytes, kind.map_or(Cause::Symbol, Cause::of));
        }
        Ok(forecast)
    }

    /// The entries that the load bias is added to.
    fn rebase_dynamic(&mut self, image: &Image, plan: &Plan) {
        let word = image.class().word();
        let Some(section) = image.dynamic_header().filter(|header| header.flags.write) else { return };
        let entries = (0..section.file_size / (2 * word)).map(|entry| 2 * word * entry);
        let tag = |at: &u64| image.view().word(section.offset + at).filter(|tag| *tag != 0);
        let tags: Vec<_> = entries.map_while(|at| tag(&at).map(|tag| (at, tag))).collect();
        for (at, _) in tags.into_iter().filter(|(_, tag)| is_rebased(*tag)) {
            self.write(plan, Vaddr(section.vaddr.0.saturating_add(at + word)), word, Cause::Dynamic);
        }
    }

    /// Notes the pages of `len` bytes at `start`.
    fn write(&mut self, plan: &Plan, start: Vaddr, len: u64, cause: Cause) {
        if len == 0 {
            return;
        }
        // A damaged table may name any address: what is outside of the image ends here.
        let end = Vaddr(start.0.saturating_add(len)).min(plan.span.end);
        let mut at = Vaddr(self.page.down(start.0));
        while at < end {
            if plan.map_at(at).is_some_and(|map| map.file.is_some()) {
                let count = &mut self.pages.entry(at).or_default().0[cause as usize];
                *count = count.saturating_add(1);
            }
            let Some(next) = at.checked_add(self.page.bytes()) else { break };
            at = next;
        }
    }

    /// How many of the pages that cause writes to, alone or with others.
    ///
    /// ```
    /// # use soload::{Cause, Forecast, Image, PageSize, Plan};
    /// # let image = Image::open("/proc/self/exe".as_ref())?;
    /// # let plan = Plan::of(&image, PageSize::native())?;
    /// let forecast = Forecast::of(&image, &plan)?;
    /// assert!((1..=forecast.pages.len()).contains(&forecast.count_by(Cause::Relative)));
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn count_by(&self, cause: Cause) -> usize {
        self.pages.values().filter(|writes| writes.by(cause) > 0).count()
    }

    /// How many of the pages lie in a range.
    ///
    /// ```
    /// # use soload::{Forecast, Image, PageSize, Plan};
    /// # let image = Image::open("/proc/self/exe".as_ref())?;
    /// # let plan = Plan::of(&image, PageSize::native())?;
    /// let forecast = Forecast::of(&image, &plan)?;
    /// assert_eq!(forecast.count_in(&plan.span), forecast.pages.len());
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn count_in(&self, range: &Range<Vaddr>) -> usize {
        self.pages.range(range.clone()).count()
    }
}
