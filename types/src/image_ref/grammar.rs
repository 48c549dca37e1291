//! The grammar of image references, part by part.

use std::net::Ipv6Addr;

use super::{
    DEFAULT_REGISTRY, DEFAULT_TAG, Digest, ImageReference, LEGACY_DEFAULT_REGISTRY,
    OFFICIAL_NAMESPACE, REFERENCE_LENGTH_MAX, REPOSITORY_LENGTH_MAX, ReferenceFault,
    TAG_LENGTH_MAX, shortened,
};

/// Splits from the right (digest, tag), then from the left (registry), then checks each part.
pub(super) fn parse(text: &str) -> Result<ImageReference, ReferenceFault> {
    if text.is_empty() {
        return Err(ReferenceFault::Empty);
    }
    if text.len() > REFERENCE_LENGTH_MAX {
        return Err(ReferenceFault::TooLong { length: text.len() });
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(ReferenceFault::Scheme { scheme: format!("{}://", shortened(scheme)) });
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    let (registry, repository) = split_registry(name);
    if repository.is_empty() {
        return Err(ReferenceFault::RepositoryMissing);
    }
    if registry == DEFAULT_REGISTRY && is_image_id(name) {
        return Err(ReferenceFault::LooksLikeId);
    }
    check_registry(registry)?;
    let repository = match registry {
        DEFAULT_REGISTRY if !repository.contains('/') => {
            format!("{OFFICIAL_NAMESPACE}/{repository}")
        }
        _ => repository.to_owned(),
    };
    check_repository(&repository)?;
    let tag = match (tag, digest) {
        (Some(tag), _) => Some(check_tag(tag)?.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some(DEFAULT_TAG.to_owned()),
    };
    Ok(ImageReference { registry: registry.to_owned(), repository, tag, digest })
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceFault> {
    text.parse().map_err(|_| ReferenceFault::Digest { digest: shortened(text) })
}

/// The tag follows the last colon, unless a slash comes later: then the colon is a port's.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

/// The part before the first slash is a registry only if it cannot be a repository: it has a dot
/// or a colon, is `localhost`, or has capital letters.
fn split_registry(name: &str) -> (&str, &str) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    let is_default = [DEFAULT_REGISTRY, LEGACY_DEFAULT_REGISTRY]
        .iter()
        .any(|name| registry.eq_ignore_ascii_case(name));
    (if is_default { DEFAULT_REGISTRY } else { registry }, repository)
}

/// How a repository of the default registry may be written without that registry: without
/// `library/` where possible; nothing when the rest would be read as something else.
pub(super) fn familiar_repository(repository: &str) -> Option<&str> {
    let short = match repository.strip_prefix("library/") {
        Some(rest) if !rest.contains('/') && !is_image_id(rest) => rest,
        _ => repository,
    };
    (split_registry(short) == (DEFAULT_REGISTRY, short)).then_some(short)
}

fn is_image_id(name: &str) -> bool {
    Digest::from_hex(name).is_some()
}

fn check_registry(registry: &str) -> Result<(), ReferenceFault> {
    let fault = || ReferenceFault::Registry { registry: shortened(registry) };
    let port = if let Some(rest) = registry.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or_else(fault)?;
        address.parse::<Ipv6Addr>().map_err(|_| fault())?;
        match after {
            "" => None,
            _ => Some(after.strip_prefix(':').ok_or_else(fault)?),
        }
    } else {
        let (host, port) = match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        };
        if !host.split('.').all(is_domain_component) {
            return Err(fault());
        }
        port
    };
    match port {
        Some(port) => check_port(port),
        None => Ok(()),
    }
}

fn check_port(port: &str) -> Result<(), ReferenceFault> {
    let digits_only = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(number) if digits_only && number != 0 => Ok(()),
        _ => Err(ReferenceFault::Port { port: shortened(port) }),
    }
}

/// Letters, digits and inner hyphens.
fn is_domain_component(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('-')
        && !part.ends_with('-')
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn check_repository(repository: &str) -> Result<(), ReferenceFault> {
    if repository.len() > REPOSITORY_LENGTH_MAX {
        return Err(ReferenceFault::RepositoryTooLong { length: repository.len() });
    }
    if repository.chars().any(char::is_uppercase) {
        return Err(ReferenceFault::UpperCase { repository: shortened(repository) });
    }
    match repository.split('/').find(|element| !is_path_component(element)) {
        Some(element) => Err(ReferenceFault::RepositoryElement { element: shortened(element) }),
        None => Ok(()),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(element: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = element.as_bytes();
    loop {
        let word = rest.iter().take_while(|byte| is_alphanumeric(**byte)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.iter().take_while(|byte| !is_alphanumeric(**byte)).count();
        let allowed = match &rest[..separator] {
            b"." | b"_" | b"__" => true,
            hyphens => hyphens.iter().all(|byte| *byte == b'-'),
        };
        if !allowed {
            return false;
        }
        rest = &rest[separator..];
    }
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
fn check_tag(tag: &str) -> Result<&str, ReferenceFault> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let valid = tag.len() <= TAG_LENGTH_MAX
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-');
    if valid { Ok(tag) } else { Err(ReferenceFault::Tag { tag: shortened(tag) }) }
}
