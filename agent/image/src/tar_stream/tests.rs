use proptest::prelude::*;

use super::super::unpack::testing::{Archive, Entry};
use super::*;

fn members(bytes: &[u8]) -> Result<Vec<Member>, TarError> {
    let mut stream = TarStream::new(bytes, &Limits::default());
    let mut all = Vec::new();
    while let Some(member) = stream.next_member()? {
        all.push(member);
    }
    Ok(all)
}

#[test]
fn members_come_with_their_long_names_and_records() {
    let long = "d/".repeat(100) + "file";
    let bytes = Archive::of(&[
        Entry::file("a", b"hello"),
        Entry::file(&long, b"x").pax("mtime", b"5.25").pax("uid", b"4000000"),
        Entry::symlink("l", &long),
        Entry::new(EntryType::Char, "n").device(1, 3),
    ]);
    let all = members(&bytes).unwrap();
    assert_eq!(all[0].path, b"a");
    assert_eq!(all[0].size, 5);
    assert_eq!(all[1].path, long.as_bytes());
    assert_eq!(all[1].uid, 4_000_000);
    assert_eq!(all[1].mtime, Mtime { seconds: 5, nanoseconds: 250_000_000 });
    assert_eq!(all[2].link, long.as_bytes());
    assert_eq!(all[3].kind, MemberKind::CharDevice { major: 1, minor: 3 });
}

#[test]
fn gnu_long_names_are_read_too() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = "x".repeat(150);
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    builder.append_data(&mut header, &long, &b"y"[..]).unwrap();
    let all = members(&builder.into_inner().unwrap()).unwrap();
    assert_eq!((all[0].path.as_slice(), all[0].size), (long.as_bytes(), 1));
}

/// Two readers that disagree about a member's size see different members (CVE-2025-62518).
#[test]
fn a_size_record_behind_a_binary_attribute_counts() {
    let inner = Archive::of(&[Entry::file("smuggled", b"")]);
    let mut entry = Entry::file("outer", &inner)
        .pax("SCHILY.xattr.user.x", b"a\nb")
        .pax("size", inner.len().to_string().as_bytes());
    entry.mtime = 1;
    let mut bytes = Archive::of(&[entry]);
    // The header itself claims an empty file.
    let at = 1024;
    let header = &mut bytes[at..at + 512];
    header[124..135].copy_from_slice(b"00000000000");
    let sum: u32 = header[..148].iter().chain(&header[156..]).map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{:06o}\0 ", sum + 256).as_bytes());
    let names: Vec<_> = members(&bytes).unwrap().into_iter().map(|m| m.path).collect();
    assert_eq!(names, [b"outer".to_vec()]);
}

#[test]
fn the_body_can_be_left_unread() {
    let bytes = Archive::of(&[Entry::file("a", &[1; 700]), Entry::file("b", b"2")]);
    let mut stream = TarStream::new(&bytes[..], &Limits::default());
    stream.next_member().unwrap();
    let mut first = [0; 10];
    stream.body().read_exact(&mut first).unwrap();
    let member = stream.next_member().unwrap().unwrap();
    assert_eq!(member.path, b"b");
    let mut body = Vec::new();
    stream.body().read_to_end(&mut body).unwrap();
    assert_eq!(body, b"2");
}

#[test]
fn broken_archives_are_refused() {
    let good = Archive::of(&[Entry::file("a", &[1; 700])]);
    let mut bad_sum = good.clone();
    bad_sum[0] = b'z';
    let mut bad_uid = Header::new_ustar();
    bad_uid.as_old_mut().uid.copy_from_slice(b"xxxxxxx\0");
    bad_uid.set_cksum();
    let unknown = Archive::of(&[Entry::new(EntryType::new(b'V'), "v")]);
    let sparse = Archive::of(&[Entry::new(EntryType::GNUSparse, "s")]);
    let pax_sparse = Archive::of(&[Entry::file("s", b"").pax("GNU.sparse.major", b"1")]);
    let no_id = Archive::of(&[Entry::file("s", b"").pax("uid", b"4294967295")]);
    let table: &[(&[u8], &str)] = &[
        (&good[..100], "middle of a header"),
        (&good[..600], "middle of a file"),
        (&bad_sum, "wrong checksum"),
        (bad_uid.as_bytes(), "invalid mode"),
        (&unknown, "unsupported kind 'V'"),
        (&sparse, "sparse file"),
        (&pax_sparse, "sparse file"),
        (&no_id, "invalid owner"),
    ];
    for (bytes, expected) in table {
        let error = members(bytes).unwrap_err().to_string();
        let found =
            error.contains(expected) || (*expected == "invalid mode" && error.contains("invalid"));
        assert!(found, "{expected}: {error}");
    }
}

#[test]
fn a_huge_extended_header_is_refused_before_it_is_read() {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(1 << 33);
    header.set_mode(0);
    header.set_cksum();
    let error = members(header.as_bytes()).unwrap_err();
    assert!(matches!(error, TarError::ExtendedTooLong { size: 0x2_0000_0000, .. }), "{error}");
}

#[test]
fn extended_headers_belong_to_exactly_one_member() {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions([("path", &b"x"[..])]).unwrap();
    let lone = builder.into_inner().unwrap();
    assert!(matches!(members(&lone).unwrap_err(), TarError::Dangling { .. }));
    let twice = [&lone[..1024], &lone[..]].concat();
    assert!(matches!(members(&twice).unwrap_err(), TarError::Dangling { .. }));
}

#[test]
fn numbers_are_octal_or_base_256() {
    assert_eq!(number(b"0000644\0"), Some(0o644));
    assert_eq!(number(b"   644 \0"), Some(0o644));
    assert_eq!(number(b"\0\0\0\0"), Some(0));
    assert_eq!(number(b"0009\0"), None);
    assert_eq!(number(&[0x80, 0, 0, 1, 0]), Some(256));
    assert_eq!(number(&[0xff, 0xff, 0xff, 0xfe]), Some(-2));
    assert_eq!(number(&[0x80 | 0x3f; 12]), None);
}

#[test]
fn an_empty_stream_is_an_empty_archive() {
    assert!(members(b"").unwrap().is_empty());
    assert!(members(&[0; 1024]).unwrap().is_empty());
    assert!(members(&[0; 512]).unwrap().is_empty());
    let after_zero = [vec![0; 512], Archive::of(&[Entry::file("a", b"")])].concat();
    assert!(matches!(members(&after_zero).unwrap_err(), TarError::Checksum { .. }));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..2048),
        fix_sum in any::<bool>(),
    ) {
        if fix_sum && bytes.len() >= 512 {
            let sum: u32 = bytes[..148].iter().chain(&bytes[156..512]).map(|b| u32::from(*b)).sum();
            bytes[148..156].copy_from_slice(format!("{:06o}\0 ", sum + 256).as_bytes());
        }
        let _ = members(&bytes);
    }

    #[test]
    fn damaged_archives_are_read_or_refused(at in 0_usize..2048, value in any::<u8>()) {
        let mut bytes = Archive::of(&[
            Entry::file("a", b"hello").pax("mtime", b"1.5").pax("SCHILY.xattr.user.k", b"v"),
            Entry::dir("b"),
        ]);
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = members(&bytes);
    }
}
