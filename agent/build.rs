//! How the agent's programs are linked.

fn main() {
    // A supervisor is this program, once per container. As a position-independent executable each
    // would have to relocate, and so own, every page of the program's constant tables.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rerun-if-changed=build.rs");
}
