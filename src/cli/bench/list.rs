//! The libraries of `--table`: well-known ones of many kinds, by class, with what is aimed at.

use std::path::PathBuf;

/// A class of libraries, and the ratios of soload's time to that of `dlopen` that are aimed at.
pub(super) struct Class {
    pub(super) name: &'static str,
    pub(super) members: &'static [&'static str],
    /// With the dependencies there before.
    pub(super) own: Aim,
    /// The whole closure.
    pub(super) cold: Aim,
}

/// A ratio aimed at; and the floor: mapping, relocating and binding in the fastest way found, and nothing else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    pub(super) goal: f64,
    pub(super) floor: f64,
}

const fn aim(goal: f64, floor: f64) -> Aim {
    Aim { goal, floor }
}

/// By soname; a library may be of several classes.
pub(super) const CLASSES: [Class; 7] = [
    Class { name: "tiny", members: &["libz.so.1", "libgmp.so.10"], own: aim(0.85, 0.785), cold: aim(0.95, 0.87) },
    Class {
        name: "medium C",
        members: &["libsqlite3.so.0", "libcrypto.so.3", "libpython3.11.so.1.0", "libgtk-3.so.0"],
        own: aim(0.62, 0.55),
        cold: aim(0.67, 0.60),
    },
    Class {
        name: "C++",
        members: &[
            "libstdc++.so.6",
            "libQt5Widgets.so.5",
            "libprotobuf.so.32",
            "libvtkCommonCore-9.1.so.1",
            "librocksdb.so.7.8",
            "libz3.so.4",
            "libicui18n.so.72",
        ],
        own: aim(0.65, 0.58),
        cold: aim(0.70, 0.64),
    },
    Class {
        name: "export-heavy",
        members: &["libnode.so.108", "librocksdb.so.7.8", "libopenblas.so.0"],
        own: aim(0.48, 0.42),
        cold: aim(0.56, 0.50),
    },
    Class {
        name: "vtable-heavy",
        members: &["libLLVM-14.so.1", "libclang-cpp.so.14", "libQt5WebEngineCore.so.5"],
        own: aim(0.78, 0.72),
        cold: aim(0.77, 0.70),
    },
    Class { name: "widest closure", members: &["libwebkit2gtk-4.1.so.0"], own: aim(0.60, 0.54), cold: aim(0.45, 0.40) },
    Class {
        name: "others",
        members: &["libjavascriptcoregtk-4.1.so.0", "libjvm.so", "librsvg-2.so.2"],
        own: ALL.0,
        cold: ALL.1,
    },
];

/// What is aimed at for all together.
pub(super) const ALL: (Aim, Aim) = (aim(0.65, 0.59), aim(0.68, 0.63));

/// All members, each once.
pub(super) fn libraries() -> Vec<&'static str> {
    let mut libraries = Vec::new();
    for member in CLASSES.iter().flat_map(|class| class.members) {
        if !libraries.contains(member) {
            libraries.push(*member);
        }
    }
    libraries
}

/// Where a library is that the search does not find by its name: the Java machine has a directory of its own.
pub(super) fn out_of_the_way(name: &str) -> Option<PathBuf> {
    let machines = std::fs::read_dir("/usr/lib/jvm").ok()?;
    let mut found: Vec<PathBuf> =
        machines.filter_map(|entry| Some(entry.ok()?.path().join("lib/server").join(name))).collect();
    found.retain(|path| path.is_file());
    found.sort();
    found.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_22_libraries_and_no_goal_below_its_floor() {
        assert_eq!(libraries().len(), 22);
        for Class { name, own, cold, .. } in &CLASSES {
            assert!(own.floor < own.goal && cold.floor < cold.goal && own.goal <= 1.0 && cold.goal <= 1.0, "{name}");
        }
    }
}
