//! The forecast: which pages of an image relocation will make private, told from the file alone.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::ops::Range;

use crate::addr::{PageSize, Vaddr};
use crate::arch::Kind;
use crate::error::{Error, ErrorKind};
use crate::file::image::Image;
use crate::file::relocations::What;
use crate::load::plan::Plan;

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
///     plan.maps.iter().filter(|map| map.protection.execute).map(|map| forecast.count_in(&map.range)).sum();
/// assert!(of_the_code == 0 && !forecast.pages.is_empty());
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forecast {
    /// The size of each page.
    pub page: PageSize,
    /// The starts of the pages.
    pub pages: BTreeSet<Vaddr>,
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
        let mut forecast = Self { page: plan.page, pages: BTreeSet::new() };
        for zeros in &plan.zeros {
            forecast.write(plan, zeros.start, 1);
        }
        let relocations = image.relocations(&image.source())?;
        // Only a copy relocation needs them, to say how many bytes it changes.
        let symbols = LazyCell::new(|| image.symbols(&image.source()).ok().flatten());
        for relocation in relocations.iter().flat_map(|relocations| relocations.iter()) {
            let of_symbol = || symbols.as_ref()?.get(relocation.symbol).map(|symbol| symbol.size);
            let bytes = width(image, relocation.what).or_else(of_symbol);
            // Of a type that nobody defines, the usual size is the best guess.
            forecast.write(plan, relocation.place, bytes.unwrap_or(image.class().word()));
        }
        Ok(forecast)
    }

    /// Notes the pages of `len` bytes at `start`.
    fn write(&mut self, plan: &Plan, start: Vaddr, len: u64) {
        // A damaged table may name any address: what is outside of the image ends here.
        let end = Vaddr(start.0.saturating_add(len)).min(plan.span.end);
        let mut at = Vaddr(self.page.down(start.0));
        while at < end {
            if plan.map_at(at).is_some_and(|map| map.file.is_some()) {
                self.pages.insert(at);
            }
            let Some(next) = at.checked_add(self.page.bytes()) else { break };
            at = next;
        }
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

/// How many bytes a relocation changes, if its type tells.
fn width(image: &Image, what: What) -> Option<u64> {
    let kind = match what {
        What::Relr => Kind::Relative,
        What::Type(number) => image.machine()?.relocation(number)?.kind,
    };
    kind.width(image.class().word())
}
