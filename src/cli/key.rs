//! `vljepa key`: keys for those who may call a server.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::service::keys::{NewKey, Scope};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Key {
    /// Draws a key: prints its token, which is shown this once, and the block for the server's file of keys.
    New(New),
}

#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// Whose key it is; stands in the server's log.
    #[arg(value_name = "NAME")]
    name: String,
    /// What it is good for.
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', required = true, value_parser = scopes())]
    scopes: Vec<Scope>,
    /// From when on it is good for nothing, such as 2027-01-31 or 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "DATE")]
    expires: Option<String>,
}

fn scopes() -> impl TypedValueParser<Value = Scope> {
    let named = |name: String| Scope::ALL.into_iter().find(|scope| scope.name() == name);
    PossibleValuesParser::new(Scope::ALL.map(Scope::name)).map(move |name| named(name).expect("a possible value"))
}

impl Key {
    pub(super) fn run(self) -> anyhow::Result<i32> {
        let Self::New(New { name, scopes, expires }) = self;
        let NewKey { token, block } =
            NewKey::draw(&name, &scopes, expires.as_deref()).map_err(|problem| anyhow::anyhow!(problem))?;
        // The token alone on standard output: what a pipe takes.
        println!("{token}");
        // Comments of TOML, so that standard error may be appended to the file as it is.
        eprintln!(
            "\n# The key was printed once and is kept nowhere. For the server's file of keys (keys.file):\n\n{block}"
        );
        Ok(0)
    }
}
