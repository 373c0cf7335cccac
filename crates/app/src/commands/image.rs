//! `abbey image`: images that microVMs boot from.

use crate::exit::{self, Failure, Outcome};
use crate::manifest_arg::{house_in_use, refuse_in_use};
use crate::output::{self, print_line, print_message, print_table};
use abbey_cells::microvm::image::{self, DEFAULT, Image, ImageRecipe};
use abbey_daemon::Home;
use abbey_model::CellKind;
use clap::Subcommand;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build an image from Debian packages; nothing of it runs and nothing is mounted.
    #[command(after_help = "Example:\n  abbey image build --include git,curl")]
    Build {
        /// Name of the image.
        #[arg(default_value = DEFAULT)]
        name: String,
        /// Debian release [default: the release of this host].
        #[arg(long)]
        suite: Option<String>,
        /// Additional packages, separated by commas.
        #[arg(long, value_delimiter = ',')]
        include: Vec<String>,
    },
    /// Import an image that was built elsewhere; its digests are verified.
    #[command(after_help = "Example:\n  abbey image import /srv/images/base")]
    Import {
        /// Directory that holds the image.
        from: PathBuf,
        /// Name of the image in this house.
        #[arg(default_value = DEFAULT)]
        name: String,
    },
    /// List the images.
    #[command(visible_alias = "ls", after_help = "Example:\n  abbey image list")]
    List,
    /// Read an image and compare it with its digests.
    #[command(after_help = "Example:\n  abbey image verify")]
    Verify {
        /// Name of the image.
        #[arg(default_value = DEFAULT)]
        name: String,
    },
    /// Remove an image; microVMs that run from it keep running.
    #[command(alias = "rm", after_help = "Example:\n  abbey image remove old")]
    Remove {
        /// Name of the image.
        name: String,
        /// Remove it although agents of the manifest in force boot from it.
        #[arg(long)]
        force: bool,
    },
}

/// Failure with exit code 3 if the house has no image of this name.
fn require_image(images: &Path, name: &str) -> Result<(), Failure> {
    match images.join(name).is_dir() {
        true => Ok(()),
        false => Err(Failure::plain(format!("there is no image `{name}`"))
            .with_code(exit::NOT_FOUND)
            .hint("`abbey image list` lists the images, `abbey image build` builds one")),
    }
}

fn failed(error: abbey_cells::Error) -> Failure {
    Failure::from(abbey_daemon::Error::Cell(error))
}

/// Agents that boot from an image.
async fn users(home: &Home, name: &str) -> Vec<String> {
    let house = house_in_use(home).await;
    let agents = house.iter().flat_map(|house| house.agents.values());
    let agents = agents.filter(|a| a.cell == CellKind::Microvm && a.image == name);
    agents.map(|a| format!("agent `{}`", a.slug)).collect()
}

/// `abbey image`: builds, imports, lists, verifies or removes microVM images in the home, without the control
/// plane.
pub(crate) async fn cmd_image(home: &Home, json: bool, command: ImageCommand) -> Outcome {
    let images = home.root().join("images");
    let print_image = |image: &Image, done: &str| match json {
        true => output::print_json_line(image),
        false => {
            print_line(&format!(
                "{done} `{}`: {}, {}",
                image.name, image.suite, image.kernel
            ));
            for (part, digest) in &image.digests {
                print_line(&format!("  {part:<10} sha256 {digest}"));
            }
        }
    };
    match command {
        ImageCommand::Build {
            name,
            suite,
            include,
        } => {
            let recipe = ImageRecipe { suite, include };
            let report_step = |what: &str| print_message(what);
            let image =
                image::build_image(&images, &name, &recipe, &report_step).map_err(failed)?;
            print_image(&image, "built");
        }
        ImageCommand::Import { from, name } => {
            let what = "cannot read the image in";
            let found = std::fs::metadata(from.join("image.json"));
            found.map_err(|e| Failure::unusable_path(what, &from, e))?;
            let image = image::import_image(&images, &name, &from).map_err(failed)?;
            print_image(&image, "imported");
        }
        ImageCommand::List => {
            let all = image::list_images(&images).map_err(failed)?;
            match json {
                true => output::print_json_line(&serde_json::json!({ "images": all })),
                false if all.is_empty() => {
                    output::print_lines("no images; `abbey image build` builds one");
                }
                false => {
                    let row = |i: &Image| vec![i.name.clone(), i.suite.clone(), i.kernel.clone()];
                    let rows = all.iter().map(row).collect();
                    print_table(&["IMAGE", "SUITE", "KERNEL"], rows, "");
                }
            }
        }
        ImageCommand::Verify { name } => {
            require_image(&images, &name)?;
            let image = image::verify_image(&images, &name).map_err(failed)?;
            print_image(&image, "verified");
        }
        ImageCommand::Remove { name, force } => {
            if !force {
                refuse_in_use(&format!("image `{name}`"), &users(home, &name).await)?;
            }
            require_image(&images, &name)?;
            image::remove_image(&images, &name).map_err(failed)?;
            print_line(&format!("removed `{name}`"));
        }
    }
    Ok(exit::OK)
}
