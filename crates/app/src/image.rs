//! `abbey image`: what virtual machines boot from.

use crate::exit::{self, Failure};
use abbey_cells::machine::image::{self, DEFAULT, Image, Recipe};
use abbey_daemon::Home;
use clap::Subcommand;
use std::path::PathBuf;

/// Images of virtual machines.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Builds one from Debian's packages; nothing of it runs and nothing is mounted.
    Build {
        /// Its name.
        #[arg(default_value = DEFAULT)]
        name: String,
        /// Release of Debian; this host's when not given.
        #[arg(long)]
        suite: Option<String>,
        /// Packages beside the stock ones.
        #[arg(long, value_delimiter = ',')]
        include: Vec<String>,
    },
    /// Brings one that was built elsewhere; its digests are compared.
    Import {
        /// Directory that holds it.
        from: PathBuf,
        /// Its name here.
        #[arg(default_value = DEFAULT)]
        name: String,
    },
    /// Lists them.
    #[command(visible_alias = "ls")]
    List,
    /// Reads all of one and compares it with its digests.
    Verify {
        /// Which.
        #[arg(default_value = DEFAULT)]
        name: String,
    },
    /// Removes one; machines that run from it go on.
    Remove {
        /// Which.
        name: String,
    },
}

fn failed(error: abbey_cells::Error) -> Failure {
    Failure::from(abbey_daemon::Error::Cell(error))
}

/// Carries a command out, in this process: images belong to the host's operator.
pub(crate) fn run(home: &Home, json: bool, command: ImageCommand) -> Result<u8, Failure> {
    let images = home.root().join("images");
    let told = |image: &Image, done: &str| match json {
        true => println!("{}", serde_json::json!(image)),
        false => {
            println!("{done} `{}`: {}, {}", image.name, image.suite, image.kernel);
            for (part, digest) in &image.digests {
                println!("  {part:<10} sha256 {digest}");
            }
        }
    };
    match command {
        ImageCommand::Build {
            name,
            suite,
            include,
        } => {
            let recipe = Recipe { suite, include };
            let tell = |what: &str| eprintln!("{what}");
            let image = image::build(&images, &name, &recipe, &tell).map_err(failed)?;
            told(&image, "built");
        }
        ImageCommand::Import { from, name } => {
            let image = image::import(&images, &name, &from).map_err(failed)?;
            told(&image, "brought");
        }
        ImageCommand::List => {
            let all = image::list(&images).map_err(failed)?;
            match json {
                true => println!("{}", serde_json::json!({ "images": all })),
                false if all.is_empty() => {
                    println!("no image; build one with `abbey image build`");
                }
                false => {
                    for image in all {
                        println!("{:<16} {:<10} {}", image.name, image.suite, image.kernel);
                    }
                }
            }
        }
        ImageCommand::Verify { name } => {
            let image = image::verify(&images, &name).map_err(failed)?;
            told(&image, "whole:");
        }
        ImageCommand::Remove { name } => {
            image::remove(&images, &name).map_err(failed)?;
            println!("removed `{name}`");
        }
    }
    Ok(exit::OK)
}
