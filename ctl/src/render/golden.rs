//! Every list as it looks at 60, 80 and 120 columns and in a file. When a change is meant, write the
//! picture anew with `SHOAL_WRITE_GOLDEN=1 cargo test -p shoalctl --lib every_list` and read the difference.

use super::table::{Column, draw};
use crate::commands::{
    context, image, network, node, service, stack, stats, system, tasks, user, volume,
};

const GOLDEN: &str = "src/render/golden.txt";

struct List {
    name: &'static str,
    columns: &'static [Column],
    rows: &'static [&'static [&'static str]],
    /// What tells rows apart, which is never cut.
    known_by: &'static [&'static str],
}

const LISTS: [List; 16] = [
    List {
        name: "service ls",
        columns: &service::COLUMNS,
        rows: &[
            &[
                "64uyhh2vujw9",
                "shop_frontend",
                "replicated",
                "2/2 (max 1 per node)",
                "registry.example.com:5000/shop/frontend:2026.11.28-rc1",
                "*:8080->80/tcp, *:8443->443/tcp",
            ],
            &["1bz5iipgo0ur", "shop_db", "replicated", "1/1", "postgres:17", ""],
        ],
        known_by: &["shop_frontend", "shop_db", "2/2 (max 1 per node)"],
    },
    List {
        name: "stack ps",
        columns: &tasks::COLUMNS,
        rows: &[
            &[
                "8llefviybvga",
                "shop_frontend.1",
                "registry.example.com:5000/shop/frontend:2026.11.28-rc1",
                "h2",
                "Running",
                "Running 7 minutes ago",
                "",
                "*:8080->80/tcp",
            ],
            &[
                "80rr7zkrywn9",
                " \\_ shop_frontend.1",
                "registry.example.com:5000/shop/frontend:2026.11.27",
                "h2",
                "Shutdown",
                "Failed 7 minutes ago",
                "\"exit code 7: the connection to the database was refused\"",
                "",
            ],
        ],
        known_by: &["8llefviybvga", "80rr7zkrywn9", "shop_frontend.1"],
    },
    List {
        name: "node ls",
        columns: &node::COLUMNS,
        rows: &[
            &["67q4brnh2grk *", "host-one.example.com", "Ready", "Active", "Leader", "0.1.0"],
            &["6i2t1m0i5ch4", "host-two.example.com", "Down", "Drain", "", "0.1.0"],
        ],
        known_by: &["67q4brnh2grk", "6i2t1m0i5ch4", "host-one.example.com", "host-two.example.com"],
    },
    List {
        name: "network ls",
        columns: &network::COLUMNS,
        rows: &[
            &[
                "4r1c5j7glpy9",
                "shop_a_network_with_a_name_that_is_rather_long",
                "bridge",
                "local",
                "",
                "",
                "",
            ],
            &["6i2t1m0i5ch4", "shop_back", "overlay", "swarm", "10.0.0.0/24", "12", "241"],
        ],
        known_by: &["shop_a_network_with_a_name_that_is_rather_long", "shop_back"],
    },
    List {
        name: "network verify",
        columns: &network::verify::FINDINGS,
        rows: &[
            &[
                "host-one.example.com",
                "routing rule 64: iif shb0123456789 prohibit",
                "present",
                "missing",
                "2 seconds",
            ],
            &[
                "host-two.example.com",
                "element tcp . 8080 : 10.0.0.4 . 80 of nftables set inet published_any",
                "present",
                "missing",
                "About a minute",
            ],
        ],
        known_by: &["host-one.example.com", "host-two.example.com"],
    },
    List {
        name: "network verify (ways)",
        columns: &network::verify::WAYS,
        rows: &[
            &[
                "host-one.example.com",
                "h2",
                "1280 of 1420",
                "2 minutes ago",
                "203.0.113.7:51820",
                "",
            ],
            &[
                "host-one.example.com",
                "h3",
                "unknown",
                "never",
                "",
                "cannot send to 10.0.0.3: Required key not available (os error 126)",
            ],
        ],
        known_by: &["host-one.example.com", "h2", "h3"],
    },
    List {
        name: "network trace",
        columns: &network::trace::STEPS,
        rows: &[
            &["1", "host-one.example.com", "shop_web.1 sends at 10.0.0.3", "passes", ""],
            &[
                "2",
                "host-one.example.com",
                "route to 10.0.0.4 by the tunnel",
                "stops",
                "route to 10.0.0.4 by the tunnel: missing, expected present",
            ],
        ],
        known_by: &["host-one.example.com"],
    },
    List {
        name: "volume ls",
        columns: &volume::COLUMNS,
        rows: &[
            &["local", "shop_data", "host-one.example.com", "shop_db.1, shop_backup.1"],
            &["local", "6rmt4hxm5gfcr5wm6rsmn8w95-i0", "host-two.example.com", ""],
        ],
        known_by: &["shop_data", "6rmt4hxm5gfcr5wm6rsmn8w95-i0", "host-one.example.com"],
    },
    List {
        name: "stats",
        columns: &stats::TASKS,
        rows: &[
            &[
                "8llefviybvga",
                "shop_frontend.1",
                "host-one.example.com",
                "103.25%",
                "1.2 GiB / 3.8 GiB",
                "31.58%",
                "1.2 GB / 345.6 MB",
                "17",
            ],
            &["80rr7zkrywn9", "shop_db.1", "h2", "--", "512.0 KiB / 64.0 MiB", "0.78%", "--", "1"],
        ],
        known_by: &["shop_frontend.1", "shop_db.1", "103.25%"],
    },
    List {
        name: "service stats",
        columns: &stats::SERVICES,
        rows: &[&[
            "shop_frontend",
            "12",
            "203.25%",
            "1.2 GiB / 3.8 GiB",
            "31.58%",
            "1.2 GB / 345.6 MB",
            "170",
        ]],
        known_by: &["shop_frontend", "203.25%"],
    },
    List {
        name: "node stats",
        columns: &stats::NODES,
        rows: &[&[
            "67q4brnh2grk1cmwglf7y4q5m",
            "host-one.example.com",
            "4",
            "203.25%",
            "1.2 GiB / 3.8 GiB",
            "31.58%",
            "1.2 GB / 345.6 MB",
            "1170",
        ]],
        known_by: &["host-one.example.com", "203.25%"],
    },
    List {
        name: "system df",
        columns: &system::COLUMNS,
        rows: &[
            &["Images", "host-one.example.com", "12", "3", "12.3 GB", "10.1 GB (82%)"],
            &["Local Volumes", "host-one.example.com", "1", "1", "345.6 MB", "0 B (0%)"],
        ],
        known_by: &["Local Volumes", "host-one.example.com", "345.6 MB", "10.1 GB (82%)"],
    },
    List {
        name: "image ls",
        columns: &image::COLUMNS,
        rows: &[&[
            "registry.example.com:5000/shop/frontend",
            "2026.11.28-rc1",
            "ac4e12345678",
            "2 hours ago",
            "123.4 MB",
        ]],
        known_by: &["registry.example.com:5000/shop/frontend", "2026.11.28-rc1", "ac4e12345678"],
    },
    List {
        name: "context ls",
        columns: &context::COLUMNS,
        rows: &[&[
            "production *",
            "34w6brnh2grk1cmwglf7y4q5m",
            "10.0.0.1:4242, 10.0.0.2:4242, 10.0.0.3:4242",
        ]],
        known_by: &["production *"],
    },
    List {
        name: "user ls",
        columns: &user::COLUMNS,
        rows: &[
            &[
                "3n8s1x0qd5p7",
                "shop-deployer",
                "deployer",
                "shop, shop-staging (with the hosts)",
                "2027-02-26",
            ],
            &["7jq0m2c9w4ta", "admin", "admin", "", "never"],
        ],
        known_by: &["shop-deployer", "admin"],
    },
    List {
        name: "stack ls",
        columns: &stack::COLUMNS,
        rows: &[
            &["shop", "3", "12", "2 hours ago"],
            &["monitoring", "12", "1", "Less than a second ago"],
        ],
        known_by: &["shop", "monitoring"],
    },
];

fn pictures() -> String {
    let mut all = String::new();
    for list in LISTS {
        let rows: Vec<Vec<String>> =
            list.rows.iter().map(|row| row.iter().map(|c| (*c).to_owned()).collect()).collect();
        for width in [Some(60), Some(80), Some(120), None] {
            let drawn = draw(list.columns, rows.clone(), width);
            for known_by in list.known_by {
                assert!(
                    drawn.contains(known_by),
                    "{} at {width:?} cuts {known_by}:\n{drawn}",
                    list.name
                );
            }
            assert!(drawn.lines().all(|line| line == line.trim_end()), "{}: {drawn:?}", list.name);
            let at = width.map_or_else(|| "in a file".to_owned(), |w| format!("at {w} columns"));
            all.push_str(&format!("== {} {at}\n{drawn}\n\n", list.name));
        }
    }
    all
}

#[test]
fn every_list_at_60_80_and_120_columns() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    let pictures = pictures();
    if std::env::var_os("SHOAL_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &pictures).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(pictures, expected);
}
