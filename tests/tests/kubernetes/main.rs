//! The manifests in `deploy/kubernetes`, rendered by the real kustomize and held against what only a cluster would say otherwise.
//!
//! Three gates: every overlay and every component renders; each object fits the published schemas of the oldest and the newest Kubernetes
//! that is supported, nothing unknown in it ([`schema`]), custom resources those of [`custom`]; and the rules that schemas cannot know
//! ([`rules`]): what refers to something finds it, what must fit together does, and every setting is one that the programs have. Beside
//! each rule stands what it must catch. No cluster is contacted.

mod containers;
mod custom;
mod model;
mod monitoring;
mod render;
mod rules;
mod schema;
mod settings;
