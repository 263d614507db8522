//! The `hive` program.

fn main() {}
