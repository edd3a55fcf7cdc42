//! What the processor offers, in the names glibc gives to subdirectories and cache entries: `x86-64-v3`, `haswell`, `tls`.

use crate::arch::native::Features;

/// The capabilities that decide between several builds of one library.
///
/// glibc 2.33 brought the directory `glibc-hwcaps` with one subdirectory per level. 2.36 still looks into the older
/// ones too, for every combination of capabilities, platform and `tls` (`elf/dl-hwcaps.c`); 2.37 dropped them
/// ([`known_to`](Self::known_to)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hwcaps {
    /// The usable subdirectories of `glibc-hwcaps`, best first.
    pub(crate) levels: Vec<&'static str>,
    /// The older capabilities: name and bit in a cache entry, lowest bit first.
    pub(crate) legacy: Vec<(&'static str, u64)>,
    /// The value of `$PLATFORM`, which is one of the older subdirectories, too.
    pub(crate) platform: Option<Vec<u8>>,
    /// Whether the older subdirectories are looked into at all.
    older: bool,
}

/// The levels of the x86-64 psABI above the baseline, best first.
const X86_64_LEVELS: [&str; 3] = ["x86-64-v4", "x86-64-v3", "x86-64-v2"];
/// What a level has beyond the one below (psABI, "Micro-Architecture Levels").
const V2: Features = Features {
    basic: 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23, // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT
    structured: 0,
    extended: 1, // LAHF
};
const V3: Features = Features {
    basic: 1 << 12 | 1 << 22 | 1 << 28 | 1 << 29, // FMA, MOVBE, AVX, F16C
    structured: 1 << 3 | 1 << 5 | 1 << 8,         // BMI1, AVX2, BMI2
    extended: 1 << 5,                             // LZCNT
};
const V4: Features = Features { structured: 1 << 16 | AVX512_1.structured, basic: 0, extended: 0 }; // AVX512F
/// What glibc calls so, on a processor of Intel's (`sysdeps/x86/cpu-features.c`).
const HASWELL: Features = Features { basic: 1 << 12 | 1 << 22 | 1 << 23, ..V3 };
const AVX512_1: Features = Features { structured: 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31, basic: 0, extended: 0 }; // DQ, CD, BW, VL
/// The bits of a cache entry that name a platform, and those platforms that x86-64 glibc knows.
const PLATFORMS: u64 = 0xf << 48;
const X86_64_PLATFORMS: [(&[u8], u64); 2] = [(b"haswell", 1 << 50), (b"xeon_phi", 1 << 51)];
/// The bit of the subdirectory `tls`, which every processor has.
const TLS: u64 = 1 << 63;

impl Hwcaps {
    /// An x86-64 processor of a level from 1 (baseline) to 4.
    pub(crate) fn x86_64(level: usize, avx512_1: bool, platform: Option<&[u8]>) -> Self {
        let levels = X86_64_LEVELS[4_usize.saturating_sub(level).min(3)..].to_vec();
        let mut legacy = vec![("x86_64", 1 << 1)];
        if avx512_1 {
            legacy.push(("avx512_1", 1 << 2));
        }
        Self { levels, legacy, platform: platform.map(<[u8]>::to_vec), older: true }
    }

    /// A processor with these features. `platform` is what the kernel says (`AT_PLATFORM`).
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of_processor(platform: Option<&[u8]>, features: Features) -> Self {
        let v2 = features.include(&V2);
        let v3 = v2 && features.include(&V3);
        let v4 = v3 && features.include(&V4);
        let level = 1 + usize::from(v2) + usize::from(v3) + usize::from(v4);
        // The two older names are for Intel's processors only, whatever others can do.
        let (haswell, avx512) = (features.include(&HASWELL), features.include(&AVX512_1));
        let intel = (haswell || avx512) && Features::made_by_intel();
        let platform = if intel && haswell { Some(b"haswell".as_slice()) } else { platform };
        Self::x86_64(level, intel && avx512, platform)
    }

    /// A processor with these features. `platform` is what the kernel says (`AT_PLATFORM`).
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn of_processor(platform: Option<&[u8]>, _features: Features) -> Self {
        Self { levels: Vec::new(), legacy: Vec::new(), platform: platform.map(<[u8]>::to_vec), older: true }
    }

    /// A processor of the machine of that number in `e_machine`: one that has `level`, or the least that there is.
    pub(crate) fn of_machine(machine: u16, level: Option<&str>) -> Self {
        let all: &[&'static str] = match machine {
            62 => &X86_64_LEVELS,
            21 => &["power10", "power9"],
            22 => &["z16", "z15", "z14", "z13"],
            _ => &[],
        };
        let first = level.and_then(|level| all.iter().position(|name| *name == level));
        let levels = first.map_or(Vec::new(), |first| all[first..].to_vec());
        match machine {
            62 => Self { levels, ..Self::x86_64(1, false, Some(b"x86_64")) },
            3 => Self { levels, legacy: Vec::new(), platform: Some(b"i686".to_vec()), older: true },
            183 => Self { levels, legacy: Vec::new(), platform: Some(b"aarch64".to_vec()), older: true },
            _ => Self { levels, legacy: Vec::new(), platform: None, older: true },
        }
    }

    /// As far as glibc of that release goes by them; what is not known is an old one.
    pub(crate) fn known_to(self, release: Option<(u32, u32)>) -> Self {
        Self { older: release < Some((2, 37)), ..self }
    }

    /// Where to look in every directory: subdirectories with a slash at the end, best first; the last is the
    /// directory itself, an empty string.
    pub(crate) fn subdirectories(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = self.levels.iter().map(|level| format!("glibc-hwcaps/{level}/").into()).collect();
        let mut names: Vec<&[u8]> = Vec::new();
        if self.older {
            names.extend(self.legacy.iter().map(|(name, _)| name.as_bytes()));
            names.extend(self.platform.as_deref());
            names.push(b"tls");
        }
        // Every subset of the names, largest first, the last name of a subset in front.
        for subset in (0..1_u32 << names.len()).rev() {
            let mut path = Vec::new();
            for (_, name) in names.iter().enumerate().rev().filter(|(bit, _)| subset >> bit & 1 == 1) {
                path.extend_from_slice(name);
                path.push(b'/');
            }
            // AMD's platform is called as the first capability is: `x86_64`.
            if !all.contains(&path) {
                all.push(path);
            }
        }
        all
    }

    /// The rank of a subdirectory of `glibc-hwcaps`: 0 is best, `None` is not for this processor.
    pub(crate) fn rank(&self, level: &[u8]) -> Option<usize> {
        self.levels.iter().position(|name| name.as_bytes() == level)
    }

    /// Whether this processor runs code that is marked with this instruction set level (0 is the baseline).
    pub(crate) fn runs(&self, level: u32) -> bool {
        level as usize <= self.levels.len()
    }

    /// Whether a cache entry with these older capability bits is for this processor.
    pub(crate) fn fits(&self, bits: u64) -> bool {
        if !self.older {
            return bits == 0;
        }
        let capabilities = self.legacy.iter().fold(0, |all, (_, bit)| all | bit);
        let platform = X86_64_PLATFORMS.iter().find(|(name, _)| Some(*name) == self.platform.as_deref());
        bits & !(capabilities | PLATFORMS | TLS) == 0
            && (bits & PLATFORMS == 0 || Some(bits & PLATFORMS) == platform.map(|(_, bit)| *bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_since_2_37_look_into_none_of_the_older_subdirectories() {
        let known_to = |release| Hwcaps::x86_64(2, false, Some(b"haswell")).known_to(release);
        let (old, new) = (known_to(Some((2, 36))), known_to(Some((2, 37))));
        assert!(old.subdirectories().len() > 2 && old.fits(TLS));
        assert_eq!(new.subdirectories(), [b"glibc-hwcaps/x86-64-v2/".to_vec(), Vec::new()]);
        assert!(new.fits(0) && !new.fits(TLS));
        assert_eq!(known_to(None), old);
    }

    fn shown(hwcaps: &Hwcaps) -> Vec<String> {
        hwcaps.subdirectories().into_iter().map(|sub| String::from_utf8(sub).unwrap()).collect()
    }

    #[test]
    fn subdirectories_come_in_the_order_of_the_loader() {
        // As `LD_DEBUG=libs` shows them on an AMD processor, without its repetitions.
        let amd = shown(&Hwcaps::x86_64(4, false, Some(b"x86_64")));
        let expected = [
            "glibc-hwcaps/x86-64-v4/",
            "glibc-hwcaps/x86-64-v3/",
            "glibc-hwcaps/x86-64-v2/",
            "tls/x86_64/x86_64/",
            "tls/x86_64/",
            "tls/",
            "x86_64/x86_64/",
            "x86_64/",
            "",
        ];
        assert_eq!(amd, expected);
        let intel = shown(&Hwcaps::x86_64(1, true, Some(b"haswell")));
        assert_eq!(intel.len(), 16);
        assert_eq!(intel[..3], ["tls/haswell/avx512_1/x86_64/", "tls/haswell/avx512_1/", "tls/haswell/x86_64/"]);
        assert_eq!(intel[12..], ["avx512_1/x86_64/", "avx512_1/", "x86_64/", ""]);
        assert_eq!(shown(&Hwcaps::x86_64(1, false, None)), ["tls/x86_64/", "tls/", "x86_64/", ""]);
    }

    #[test]
    fn a_processor_has_its_level_and_all_below() {
        for level in 1..=4 {
            let hwcaps = Hwcaps::x86_64(level, false, None);
            let ranks = ["x86-64-v4", "x86-64-v3", "x86-64-v2"].map(|name| hwcaps.rank(name.as_bytes()));
            let expected = match level {
                1 => [None, None, None],
                2 => [None, None, Some(0)],
                3 => [None, Some(0), Some(1)],
                _ => [Some(0), Some(1), Some(2)],
            };
            assert_eq!(ranks, expected);
            assert!(hwcaps.runs(level as u32 - 1) && !hwcaps.runs(level as u32));
        }
    }

    #[test]
    fn older_capability_bits_fit_where_all_of_them_are_there() {
        let amd = Hwcaps::x86_64(4, false, Some(b"x86_64"));
        let intel = Hwcaps::x86_64(4, true, Some(b"haswell"));
        for (bits, on_amd, on_intel) in [
            (0, true, true),
            (1 << 1, true, true),
            (1 << 2, false, true),
            (1 << 3, false, false),
            (1 << 63, true, true),
            (1 << 50, false, true),
            (1 << 51, false, false),
            (1 << 50 | 1 << 51, false, false),
            (1 << 63 | 1 << 50 | 1 << 2 | 1 << 1, false, true),
        ] {
            assert_eq!((amd.fits(bits), intel.fits(bits)), (on_amd, on_intel), "{bits:#x}");
        }
    }

    /// glibc's loader prints what it found out about the processor (since 2.33).
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn this_processor_is_what_the_loader_says_it_is() {
        let loader = std::process::Command::new("/lib64/ld-linux-x86-64.so.2").arg("--list-diagnostics").output();
        let Ok(output) = loader else { return };
        let text = String::from_utf8_lossy(&output.stdout);
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let Some(active) = value("dl_hwcaps_subdirs_active") else { return };
        let hwcaps = Hwcaps::of_processor(Some(b"x86_64"), Features::asked());
        // One bit for each of v4, v3 and v2, from the lowest.
        let active = u32::from_str_radix(active.trim_start_matches("0x"), 16).unwrap();
        assert_eq!(hwcaps.levels.len(), active.count_ones() as usize);
        if let Some(platform) = value("dl_platform") {
            assert_eq!(platform.trim_matches('"').as_bytes(), hwcaps.platform.unwrap());
        }
    }
}
