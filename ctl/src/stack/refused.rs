//! Values that shoal cannot do what they say, of keys that work otherwise: what the table of keys in
//! `schema` cannot say. A row leaves with the change that makes it work; `docs/unsupported.md` lists
//! exactly these.

use super::schema::{LATER, WINDOWS};

/// A value, or a form of one, that is refused.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "some of it is for the document alone"))]
pub(crate) struct Refused {
    /// The key: as a path of a stack file, or a flag.
    pub(crate) key: &'static str,
    /// Which values of it.
    pub(crate) values: &'static str,
    /// Why.
    pub(crate) reason: &'static str,
    /// What to write instead; may be empty.
    pub(crate) instead: &'static str,
}

impl Refused {
    /// Why, and what to write instead.
    pub(crate) fn why(&self) -> String {
        match self.instead {
            "" => self.reason.to_owned(),
            instead => format!("{}: {instead}", self.reason),
        }
    }

    /// The refusal of this value.
    pub(crate) fn said(&self, given: &str) -> String {
        format!("{given} {}", self.why())
    }
}

/// The rows, each under its name, and all of them.
macro_rules! table {
    ($($name:ident = $key:literal, $values:literal, $reason:expr, $instead:literal;)*) => {
        $(pub(crate) const $name: &Refused =
            &Refused { key: $key, values: $values, reason: $reason, instead: $instead };)*
        #[cfg(test)]
        pub(crate) const ALL: &[&Refused] = &[$($name),*];
    };
}

table! {
    TAG = "(any)", "a tag that is not one of YAML's own, such as `!reset`", LATER, "remove it";
    JOB = "services.*.deploy.mode", "`replicated-job`, `global-job`",
        LATER, "expected replicated or global";
    HOST_GATEWAY = "services.*.extra_hosts", "`host-gateway`", LATER, "expected an address";
    OTHER_CONTAINER = "services.*.network_mode", "`container:…`",
        "containers have no names that last across hosts",
        "expected service:NAME, with a service of the stack";
    PORT_RANGE = "services.*.ports[].published", "a range in the long form",
        LATER, "expected one port, or a range in the short form";
    SECURITY_OPTION = "services.*.security_opt[]", "anything but `no-new-privileges`",
        LATER, "expected no-new-privileges:true";
    TMPFS_OPTION = "services.*.tmpfs[]", "options other than `size=` and `mode=`",
        LATER, "expected size=, mode=";
    SELINUX_OPTION = "services.*.volumes[]", "options `z` and `Z`, which are for SELinux",
        LATER, "remove it";
    CONSISTENCY_OPTION = "services.*.volumes[]", "options `cached`, `delegated` and `consistent`",
        "means nothing on Linux", "remove it";
    PIPE = "services.*.volumes[].type", "`npipe`", WINDOWS, "expected bind, volume or tmpfs";
    MOUNT_TYPE = "services.*.volumes[].type", "`cluster`, `image`",
        LATER, "expected bind, volume or tmpfs";
    VOLUME_DRIVER = "volumes.*.driver", "anything but `local`", LATER, "expected local";
}
