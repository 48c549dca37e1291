//! `shoalctl`; see the library of this package.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoal_ctl::main()
}
