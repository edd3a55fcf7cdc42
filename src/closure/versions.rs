//! Which versions the objects of a closure need, and whether those that have to define them do.

use std::cell::OnceCell;
use std::collections::HashMap;

use super::{Closure, Object};

/// A version that an object needs and that is not there.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert!(closure.version_problems.is_empty());
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionProblem {
    /// The object that needs it: an index of [`Closure::objects`].
    pub user: usize,
    /// The object that has to define it.
    pub provider: usize,
    /// Its name.
    pub version: Vec<u8>,
    /// Whether the provider has no versions at all: the loader then only warns.
    pub unversioned: bool,
    /// Whether the loader gives up.
    pub fatal: bool,
}

/// One entry of an object's table of needed versions.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert!(closure.version_uses(0).iter().any(|need| need.version.starts_with(b"GLIBC_")));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionUse {
    /// The library, by the name under which it is needed.
    pub file: Vec<u8>,
    /// The version.
    pub version: Vec<u8>,
    /// Whether it may be missing.
    pub weak: bool,
    /// The object that defines it: an index of [`Closure::objects`].
    pub provider: Option<usize>,
}

impl Closure {
    /// The versions that object `user` needs, in the order of its table.
    #[must_use]
    pub fn version_uses(&self, user: usize) -> Vec<VersionUse> {
        let by_name = by_name(&self.objects);
        let Some(facts) = self.objects.get(user).and_then(|object| object.facts.as_ref()) else { return Vec::new() };
        let uses = facts.brief.requirements.iter().map(|required| {
            let provider = by_name.get(facts.brief.file_of(required)).copied();
            let defines = |index: &usize| {
                self.objects[*index].facts.as_ref().is_some_and(|own| own.brief.defines(required, &facts.brief))
            };
            let (file, version) = (facts.brief.file_of(required).to_vec(), facts.brief.version_of(required).to_vec());
            VersionUse { file, version, weak: required.weak, provider: provider.filter(defines) }
        });
        uses.collect()
    }
}

/// The first object that is there and has a name.
fn by_name(objects: &[Object]) -> HashMap<&[u8], usize> {
    let mut names = HashMap::new();
    for (index, object) in objects.iter().enumerate().filter(|(_, object)| object.facts.is_some()) {
        names.entry(object.name.as_slice()).or_insert(index);
    }
    for (index, object) in objects.iter().enumerate() {
        if let Some(soname) = object.soname() {
            names.entry(soname).or_insert(index);
        }
        for need in &object.needs {
            if objects[need.object].facts.is_some() {
                names.entry(&need.name).or_insert(need.object);
            }
        }
    }
    names
}

/// What is missing. As in glibc (`match_symbol`), a provider without any versions only earns a warning.
pub(super) fn check(objects: &[Object]) -> Vec<VersionProblem> {
    // Nearly every version is asked of a library that the object itself needs; the table is for the others.
    let all = OnceCell::new();
    let mut problems: Vec<VersionProblem> = Vec::new();
    for (user, object) in objects.iter().enumerate() {
        let Some(facts) = &object.facts else { continue };
        let mut last: (&[u8], Option<usize>) = (b"", None);
        for required in &facts.brief.requirements {
            // The versions of one library stand together.
            let file = facts.brief.file_of(required);
            if last.0 != file {
                let own = object.needs.iter().find(|need| need.name == file && objects[need.object].facts.is_some());
                let provider = own.map(|need| need.object);
                last = (file, provider.or_else(|| all.get_or_init(|| by_name(objects)).get(file).copied()));
            }
            let Some(provider) = last.1 else { continue };
            let Some(provided) = &objects[provider].facts else { continue };
            let unversioned = !provided.brief.defines_any;
            if !provided.brief.defines(required, &facts.brief) {
                let (version, fatal) = (facts.brief.version_of(required).to_vec(), !unversioned && !required.weak);
                problems.push(VersionProblem { user, provider, version, unversioned, fatal });
            }
        }
    }
    problems
}
