use tower_mesh_core::Tick;

/// The layers' clock: tokio's, so that a paused one reaches every layer.
pub(crate) fn clock() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}
