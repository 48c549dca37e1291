//! What of a method its caller, and whoever passes a call on, has to know without knowing its messages.

/// Calls that do no harm when they are made twice, beside those whose name says that they only read.
const HARMLESS: [&str; 7] = [
    "/shoal.v1.Ca/IssueNodeCertificate",
    "/shoal.v1.Ca/RenewCertificate",
    "/shoal.v1.Control/ServiceLogs",
    "/shoal.v1.Control/TraceNetwork",
    "/shoal.v1.Control/VerifyNetworks",
    "/shoal.v1.Control/Watch",
    "/shoal.v1.Managers/Announce",
];

/// Calls of users who go on saying things.
const TALKS: [&str; 1] = ["/shoal.v1.Control/Exec"];

/// Whether a call of the method at `path` may be made again when nobody knows what has come of it.
#[must_use]
pub fn is_harmless(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    method.starts_with("Get") || method.starts_with("List") || HARMLESS.contains(&path)
}

/// Whether a user's call of the method at `path` is more than one message.
#[must_use]
pub fn talks(path: &str) -> bool {
    TALKS.contains(&path)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_users_calls_that_are_more_than_one_message_are_named() {
        let set = prost_types::FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
        let services = set.file.iter().flat_map(|file| &file.service);
        let mut seen = 0;
        for service in
            services.filter(|service| ["Control", "Ca", "Managers"].contains(&service.name()))
        {
            for method in &service.method {
                let path = format!("/shoal.v1.{}/{}", service.name(), method.name());
                assert_eq!(talks(&path), method.client_streaming(), "{path}");
                seen += usize::from(HARMLESS.contains(&&*path));
            }
        }
        assert_eq!(seen, HARMLESS.len(), "a method that is named does not exist");
        assert!(is_harmless("/shoal.v1.Control/GetNode"));
        assert!(!is_harmless("/shoal.v1.Control/CreateService"));
    }
}
