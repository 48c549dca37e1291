//! Which of an image's variants this host runs.

use std::fmt;

use oci_spec::image::{Descriptor, ImageConfiguration};

/// Operating system, architecture and variant in the words of the OCI image specification
/// ("Platform Variants").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// For example `linux`.
    pub os: String,
    /// For example `amd64`.
    pub architecture: String,
    /// For example `v8` of `arm64`.
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// Nothing in an index runs here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no image for {wanted}, only for {}", list(.available))]
pub struct WrongPlatform {
    /// This host.
    pub wanted: Platform,
    /// What there is.
    pub available: Vec<Platform>,
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "nothing".to_owned();
    }
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Platform {
    /// The platform this program was built for, with what the processor can do.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        let variant = match architecture {
            "amd64" => Some(format!("v{}", amd64_level())),
            "arm64" => Some("v8".to_owned()),
            "arm" => Some("v7".to_owned()),
            _ => None,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
    }

    fn of_descriptor(descriptor: &Descriptor) -> Option<Self> {
        let platform = descriptor.platform().as_ref()?;
        Some(Self {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone().filter(|variant| !variant.is_empty()),
        })
    }

    /// What an image says about itself.
    pub(super) fn of_config(config: &ImageConfiguration) -> Self {
        Self {
            os: config.os().to_string(),
            architecture: config.architecture().to_string(),
            variant: config.variant().clone().filter(|variant| !variant.is_empty()),
        }
    }

    /// How well `self` (a host) runs `image`: nothing if not at all, else more is better.
    fn fit(&self, image: &Self) -> Option<u32> {
        if (&self.os, &self.architecture) != (&image.os, &image.architecture) {
            return None;
        }
        let (host, wanted) = (self.level(), image.level());
        match (host, wanted) {
            (Some(host), Some(wanted)) => (wanted <= host).then_some(wanted),
            _ => (self.variant == image.variant || image.variant.is_none()).then_some(0),
        }
    }

    /// Variants of these architectures are levels, and a higher one runs what a lower one does.
    fn level(&self) -> Option<u32> {
        let unmarked = match self.architecture.as_str() {
            "amd64" => 1,
            "arm64" => 8,
            "arm" => 7,
            _ => return None,
        };
        match &self.variant {
            None => Some(unmarked),
            Some(variant) => variant.strip_prefix('v')?.parse().ok(),
        }
    }
}

/// The x86-64 microarchitecture level (System V ABI, AMD64 supplement).
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> u32 {
    macro_rules! all {
        ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    if !all!("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cmpxchg16b") {
        1
    } else if !all!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe") {
        2
    } else if !all!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl") {
        3
    } else {
        4
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> u32 {
    1
}

/// The entry of an index that fits `host` best.
pub(super) fn pick<'a>(
    entries: &'a [Descriptor],
    host: &Platform,
) -> Result<&'a Descriptor, WrongPlatform> {
    let best = candidates(entries, host).into_iter().next();
    best.ok_or_else(|| WrongPlatform { wanted: host.clone(), available: available(entries) })
}

/// The entries of an index that may fit `host`, the best first. Entries without a platform come last:
/// nothing says that they do not fit. The image's own configuration is checked afterwards.
pub(super) fn candidates<'a>(entries: &'a [Descriptor], host: &Platform) -> Vec<&'a Descriptor> {
    let fit = |entry: &Descriptor| match Platform::of_descriptor(entry) {
        Some(platform) => host.fit(&platform).map(|fit| fit + 1),
        None => Some(0),
    };
    let images = entries.iter().filter(|entry| !is_attestation(entry));
    let mut all: Vec<_> = images.filter_map(|entry| Some((fit(entry)?, entry))).collect();
    all.sort_by_key(|(fit, _)| std::cmp::Reverse(*fit));
    all.into_iter().map(|(_, entry)| entry).collect()
}

/// What an index says that its entries are for.
pub(super) fn available(entries: &[Descriptor]) -> Vec<Platform> {
    let images = entries.iter().filter(|entry| !is_attestation(entry));
    let mut available: Vec<_> = images.filter_map(Platform::of_descriptor).collect();
    available.dedup();
    available
}

/// BuildKit puts its attestations into the index as if they were images.
fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations().as_ref().is_some_and(|all| all.contains_key("vnd.docker.reference.type"))
        || Platform::of_descriptor(entry).is_some_and(|platform| platform.os == "unknown")
}

/// Checks what an image says about itself.
pub(super) fn check(config: &ImageConfiguration, host: &Platform) -> Result<(), WrongPlatform> {
    let image = Platform::of_config(config);
    match host.fit(&image) {
        Some(_) => Ok(()),
        None => Err(WrongPlatform { wanted: host.clone(), available: vec![image] }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap(),
            architecture: parts.next().unwrap(),
            variant: parts.next(),
        }
    }

    fn entry(text: &str) -> Descriptor {
        let mut value = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", "0".repeat(64)),
            "size": 1,
        });
        if text.starts_with("attestation") {
            value["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
            value["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        } else if !text.is_empty() {
            let platform = platform(text);
            value["platform"] = json!({"os": platform.os, "architecture": platform.architecture});
            if let Some(variant) = platform.variant {
                value["platform"]["variant"] = json!(variant);
            }
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_best_variant_that_runs_is_picked() {
        for (host, entries, expected) in [
            ("linux/amd64/v3", &["linux/arm64", "linux/amd64"][..], Some(1)),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v3", "linux/amd64/v4"], Some(1)),
            ("linux/amd64/v2", &["linux/amd64/v4", "linux/amd64/v3"], None),
            ("linux/arm/v7", &["linux/arm/v6", "linux/arm/v7", "linux/arm64/v8"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"], Some(1)),
            ("linux/arm64/v8", &["linux/arm/v7", "linux/arm64"], Some(1)),
            ("linux/arm64/v8", &["linux/arm64/v8", "linux/arm64/v9"], Some(0)),
            ("linux/riscv64", &["linux/riscv64"], Some(0)),
            ("linux/amd64/v1", &["windows/amd64", "linux/386"], None),
            ("linux/amd64/v1", &["attestation", "linux/amd64"], Some(1)),
            ("linux/amd64/v1", &["attestation"], None),
            ("linux/amd64/v1", &[""], Some(0)),
            ("linux/amd64/v1", &["", "linux/amd64"], Some(1)),
        ] {
            let list: Vec<_> = entries.iter().map(|text| entry(text)).collect();
            let picked = pick(&list, &platform(host)).ok();
            let index =
                picked.map(|found| list.iter().position(|e| std::ptr::eq(e, found)).unwrap());
            assert_eq!(index, expected, "{host} of {entries:?}");
        }
    }

    #[test]
    fn the_refusal_names_what_there_is() {
        let list = [entry("linux/arm64/v8"), entry("windows/amd64"), entry("attestation")];
        let error = pick(&list, &platform("linux/amd64/v2")).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no image for linux/amd64/v2, only for linux/arm64/v8, windows/amd64"
        );
    }

    #[test]
    fn this_host_is_a_platform() {
        let host = Platform::host();
        assert_eq!(host.os, "linux");
        let unmarked = Platform { variant: None, ..host.clone() };
        assert!(host.fit(&unmarked).is_some());
    }
}
