//! The door between messages and the domain: everything that arrives is checked here, once, and
//! past it only `shoal_types` travels.
//!
//! For every domain type `T` there is `From<&T>` for the message and `TryFrom` the message for
//! `T`. The two are made from one table of fields ([`message!`]) that names every field of both
//! sides, so a field that was added to one side alone does not compile. How a field is carried is
//! said by its [kind](field). Nothing is defaulted on the way and nothing is dropped: what is
//! absent stays absent. Limits on size are those of the transport.
//!
//! Whether a spec makes sense is not asked here but by `shoal_types::spec::validate`.

mod assignment;
mod cluster;
mod container;
pub mod field;
mod mount;
mod network;
mod node;
mod payload;
mod question;
mod registry_auth;
mod resources;
mod service;
mod stack;
mod task;
mod task_spec;
mod user;

#[cfg(test)]
mod tests;

/// Why a message does not say what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {why}")]
pub struct InvalidMessage {
    /// Path from the outermost message, such as `task_template.container.mounts[2].kind`.
    pub field: String,
    /// What is wrong there, such as `is missing`.
    pub why: String,
}

impl InvalidMessage {
    /// A complaint about one field.
    #[must_use]
    pub fn new(field: &str, why: impl Into<String>) -> Self {
        Self { field: field.to_owned(), why: why.into() }
    }

    /// A field that has to be there and is not.
    #[must_use]
    pub fn missing(field: &str) -> Self {
        Self::new(field, "is missing")
    }

    /// The same complaint, seen from the message whose field `outer` holds the complainer.
    #[must_use]
    pub fn under(self, outer: &str) -> Self {
        let dot = if self.field.starts_with('[') { "" } else { "." };
        Self { field: format!("{outer}{dot}{}", self.field), why: self.why }
    }
}

/// Both directions between a domain struct and the message of the same name, from one table:
/// `field: Kind`, after a `;` those whose name differs, `field => wire_name: Kind`, and after a `|`
/// those that the message needs two fields for, `field => (first, second): Kind`.
macro_rules! message {
    ($name:ident {
        $($field:ident: $kind:ident),* $(,)?
        $(; $($renamed:ident => $wire:ident: $wire_kind:ident),* $(,)?)?
        $(| $($paired:ident => ($first:ident, $second:ident): $pair_kind:ident),* $(,)?)?
    }) => {
        impl From<&$name> for $crate::v1::$name {
            fn from(value: &$name) -> Self {
                let $name { $($field,)* $($($renamed,)*)? $($($paired,)*)? } = value;
                $($(let ($first, $second) =
                    $crate::convert::field::write::<field::$pair_kind, _, _>($paired);)*)?
                Self {
                    $($($first, $second,)*)?
                    $($field: $crate::convert::field::write::<field::$kind, _, _>($field),)*
                    $($($wire: $crate::convert::field::write::<field::$wire_kind, _, _>($renamed),)*)?
                }
            }
        }

        impl TryFrom<$crate::v1::$name> for $name {
            type Error = $crate::convert::InvalidMessage;

            fn try_from(wire: $crate::v1::$name) -> Result<Self, Self::Error> {
                use $crate::convert::field::read;
                let $crate::v1::$name { $($field,)* $($($wire,)*)? $($($first, $second,)*)? } = wire;
                Ok(Self {
                    $($($paired: read::<field::$pair_kind, _, _>(
                        stringify!($first),
                        ($first, $second),
                    )?,)*)?
                    $($field: read::<field::$kind, _, _>(stringify!($field), $field)?,)*
                    $($($renamed: read::<field::$wire_kind, _, _>(stringify!($wire), $wire)?,)*)?
                })
            }
        }

        $crate::convert::by_value!($name => $crate::v1::$name);
    };
}

/// Both directions between a domain enum without data and the enum of the same name and variants.
macro_rules! choice {
    ($name:ident { $($variant:ident),* $(,)? }) => {
        impl From<$name> for $crate::v1::$name {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => Self::$variant,)*
                }
            }
        }

        impl TryFrom<$crate::v1::$name> for $name {
            type Error = $crate::convert::field::Unspecified;

            fn try_from(wire: $crate::v1::$name) -> Result<Self, Self::Error> {
                match wire {
                    $crate::v1::$name::Unspecified => Err($crate::convert::field::Unspecified),
                    $($crate::v1::$name::$variant => Ok(Self::$variant),)*
                }
            }
        }

        impl $crate::convert::field::WireChoice for $name {
            type Wire = $crate::v1::$name;
        }
    };
}

/// `From` an owned domain value, where `From` a borrowed one exists.
macro_rules! by_value {
    ($domain:ty => $wire:ty) => {
        impl From<$domain> for $wire {
            fn from(value: $domain) -> Self {
                Self::from(&value)
            }
        }
    };
}

pub(crate) use {by_value, choice, message};
