//! The worker over fake drivers: whole lives, failures, and crashes at any point.

mod beside;
mod connections;
mod crashes;
mod enumerated;
mod lab;
mod levels;
mod lives;
mod names;
mod order;

use lab::Lab;
