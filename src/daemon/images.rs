//! The image store as the node agent sees it.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use node::{Credentials, Image, ImageConfig, Images, PullError};
use runtime::Rootfs;
use runtime::image::{self, Error, ImageStore};
use tokio::sync::watch;

/// Store and registries behind the node's trait. Work on the disk runs on blocking threads.
pub struct NodeImages(pub image::Images);

fn shown(image: &image::Image) -> Image {
    let config = &image.config;
    Image {
        id: image.id.to_string(),
        names: image.names.clone(),
        digests: image.digests.clone(),
        size_bytes: image.size_bytes,
        config: ImageConfig {
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            env: config.env.clone(),
            working_dir: config.working_dir.clone(),
            user: config.user.clone(),
            stop_signal: config.stop_signal.clone(),
            volumes: config.volumes.clone(),
        },
    }
}

fn refused(reference: &str, error: &Error) -> PullError {
    match error.cause() {
        Error::InvalidReference { .. } => {
            PullError::InvalidName { reference: reference.to_owned(), why: error.cause().to_string() }
        }
        _ => PullError::Failed(error.chain()),
    }
}

impl NodeImages {
    /// Runs `work` on the store off the reactor.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Arc<Error>>> {
        let store = self.0.store().clone();
        async move {
            match tokio::task::spawn_blocking(move || work(&store)).await {
                Ok(outcome) => outcome.map_err(Arc::new),
                Err(_) => Err(Arc::new(Error::Canceled)),
            }
        }
        .boxed()
    }
}

impl Images for NodeImages {
    fn resolve<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, PullError>> {
        let found = self.0.store().resolve(reference);
        let outcome = found.map(|image| image.as_ref().map(shown)).map_err(|e| refused(reference, &e));
        async move { outcome }.boxed()
    }

    fn pull<'a>(
        &'a self,
        reference: &'a str,
        credentials: &'a [Credentials],
    ) -> BoxFuture<'a, Result<Image, PullError>> {
        let credentials: Vec<image::Credentials> = credentials
            .iter()
            .map(|c| image::Credentials {
                registry: c.registry.clone(),
                username: c.username.clone(),
                password: c.password.clone(),
                token: c.token.clone(),
            })
            .collect();
        async move {
            let pull = self.0.pull(reference, &credentials);
            pull.finish().await.map(|image| shown(&image)).map_err(|e| refused(reference, &e))
        }
        .boxed()
    }

    fn prepare<'a>(&'a self, image: &'a str, container: &'a str) -> BoxFuture<'a, anyhow::Result<Rootfs>> {
        let (image, container) = (image.to_owned(), container.to_owned());
        let work = self.blocking(move |store| store.prepare(&image, &container));
        async move { work.await.map_err(|e| anyhow::anyhow!(e.chain())) }.boxed()
    }

    fn release<'a>(&'a self, container: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        let container = container.to_owned();
        let work = self.blocking(move |store| store.release(&container));
        async move { work.await.map_err(|e| anyhow::anyhow!(e.chain())) }.boxed()
    }

    fn read_file<'a>(&'a self, image: &'a str, path: &'a str) -> BoxFuture<'a, anyhow::Result<Option<String>>> {
        let (image, path) = (image.to_owned(), path.to_owned());
        let work = self.blocking(move |store| store.read_file(&image, &path));
        async move { work.await.map_err(|e| anyhow::anyhow!(e.chain())) }.boxed()
    }

    fn added(&self) -> watch::Receiver<u64> {
        self.0.store().added()
    }

    fn list(&self) -> BoxFuture<'_, anyhow::Result<Vec<Image>>> {
        let list = self.0.store().list().iter().map(shown).collect();
        async move { Ok(list) }.boxed()
    }

    fn prepared(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        let prepared = self.0.store().prepared();
        async move { Ok(prepared) }.boxed()
    }
}
