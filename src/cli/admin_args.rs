//! `hive admin …`: what it takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::farm_args::long_duration;

/// `hive admin …`
#[derive(Debug, Subcommand)]
pub(crate) enum AdminVerb {
    /// The key that opens everything.
    Key {
        #[command(subcommand)]
        verb: KeyVerb,
    },
    /// Who signs the certificates of the hive's nodes: what a browser or `--ca` has to know.
    Ca {
        /// Print its certificate alone, for a file.
        #[arg(long)]
        pem: bool,
    },
    /// Browsers that are signed in.
    Sessions {
        #[command(subcommand)]
        verb: SessionsVerb,
    },
    /// Named keys that open less, or end by themselves.
    Token {
        #[command(subcommand)]
        verb: TokenVerb,
    },
}

/// `hive admin key …`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// Print the key, on the machine that has its file.
    Show,
    /// Make a new key; the old one opens nothing any more.
    Rotate,
    /// Use the key of a file, or of standard input.
    Set {
        /// The file; standard input when left out.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Have none: nobody controls the hive from another machine but with a token.
    Remove,
}

/// `hive admin sessions …`
#[derive(Debug, Subcommand)]
pub(crate) enum SessionsVerb {
    /// Sign every browser out, at all nodes.
    Revoke,
}

/// `hive audit`
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Check that nothing was changed, left out or cut off.
    #[arg(long, conflicts_with_all = ["before", "limit"])]
    pub(crate) verify: bool,
    /// Only those before the entry with this number.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) before: Option<u64>,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
}

/// `hive admin token …`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Make a token and print it: nobody can tell it again.
    Add(TokenArgs),
    /// List the tokens.
    List,
    /// A token is no longer good.
    Revoke {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// A new token.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Its name.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What it opens: queue also reads, admin opens all, drone acts as one drone of the build swarm.
    #[arg(long, value_name = "SCOPE", value_parser = ["read", "queue", "drone", "admin"])]
    pub(crate) scope: String,
    /// The drone that it is for, with --scope drone; NAME when left out.
    #[arg(long, value_name = "DRONE")]
    pub(crate) drone: Option<String>,
    /// It is over after so long, as 12h or 90d; never by itself when left out.
    #[arg(long, value_name = "TIME", value_parser = long_duration)]
    pub(crate) expires: Option<u64>,
}
