//! What is served and within which limits, as clients are told, and what they may have loaded.

use std::path::{Component, PathBuf};

use super::{Checked, invalid};
use crate::engine::{Engine, ModelState, shortened};
use crate::model::facts::{ModelFacts, PartFacts};
use crate::service::proto;
use crate::settings::Settings;

const NAME_MAX: usize = 64;

/// A model that comes or goes.
pub(in crate::service) fn passing(name: String, state: ModelState) -> proto::Model {
    let state = match state {
        ModelState::Loading => proto::ModelState::Loading,
        ModelState::Unloading => proto::ModelState::Unloading,
    };
    proto::Model { name, state: state as i32, ..Default::default() }
}

/// LoadModel's name and directory. What lies there is looked at when it is loaded.
pub(in crate::service) fn model_place(request: proto::LoadModelRequest) -> Checked<(String, PathBuf)> {
    let proto::LoadModelRequest { name, directory } = request;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if !(1..=NAME_MAX).contains(&name.len()) || !name.chars().all(plain) {
        let problem =
            format!("is {:?}, must be 1 to {NAME_MAX} letters, digits, \".\", \"-\", \"_\"", shortened(&name));
        return Err(invalid("name", problem));
    }
    let path = PathBuf::from(&directory);
    if directory.is_empty() || !path.components().all(|part| matches!(part, Component::Normal(_))) {
        let problem = format!("is {:?}, must be a relative path without \"..\"", shortened(&directory));
        return Err(invalid("directory", problem));
    }
    Ok((name, path))
}

/// What is served, with all its limits.
pub(in crate::service) fn model(name: &str, engine: &Engine) -> proto::Model {
    let facts = engine.model().facts();
    let part = |part: &PartFacts| proto::ModelPart {
        name: part.part.into(),
        architecture: part.architecture.clone(),
        parameters: part.parameters,
        precision: part.precision.into(),
        bytes_on_disk: part.bytes_on_disk,
        bytes_in_memory: part.bytes_in_memory,
    };
    proto::Model {
        name: name.into(),
        space: facts.space.to_string(),
        dimensions: facts.dimensions as u32,
        parts: facts.parts.iter().map(part).collect(),
        instruction_set: facts.instruction_set.into(),
        visual_tokens: facts.visual_tokens as u32,
        limits: Some(limits(engine.settings(), facts)),
        state: proto::ModelState::Serving as i32,
    }
}

fn limits(settings: &Settings, facts: &ModelFacts) -> proto::Limits {
    let Settings { media, text, queue, service, uploads, jobs, watch, .. } = settings;
    proto::Limits {
        message_bytes_max: service.message_bytes_max as u64,
        media_bytes_max: media.bytes_max as u64,
        pixels_max: media.pixels_max,
        frames_max: media.frames_max as u32,
        decoded_bytes_max: media.decode_bytes_max,
        text_bytes_max: text.bytes_max as u32,
        items_max: media.items_max as u32,
        texts_max: text.texts_max as u32,
        candidates_max: text.candidates_max as u32,
        question_tokens_max: facts.question_tokens_max as u32,
        text_tokens_max: facts.text_tokens_max as u32,
        answer_tokens_max: text.answer_tokens_max.min(facts.answer_tokens_max) as u32,
        queue_items_max: queue.items_max as u32,
        queue_tokens_max: queue.cost_max as u64,
        batch_items_max: queue.batch_items_max as u32,
        batch_tokens_max: queue.batch_cost_max as u64,
        deadline_default_ms: service.deadline_default_ms,
        deadline_max_ms: service.deadline_max_ms,
        stream_items_max: service.stream_items_max as u32,
        upload_bytes_max: uploads.bytes_max,
        upload_chunk_bytes_max: uploads.chunk_bytes_max as u64,
        uploads_max: uploads.items_max as u32,
        uploads_bytes_max: uploads.total_bytes_max,
        upload_expiry_ms: uploads.expiry_ms,
        models_max: settings.models.items_max as u32,
        small_message_bytes_max: service.small_message_bytes_max as u64,
        inflight_bytes_max: service.inflight_bytes_max as u64,
        message_read_max_ms: service.message_read_max_ms,
        connections_max: settings.connection.connections_max as u32,
        calls_per_connection_max: settings.connection.streams_max,
        decode_ms_max: media.decode_ms_max,
        decoded_total_bytes_max: media.memory_bytes_max,
        drain_max_ms: service.drain_max_ms,
        message_elements_max: settings.elements_max() as u64,
        preface_max_ms: settings.connection.preface_max_ms,
        idle_max_ms: settings.connection.idle_max_ms,
        unread_max_ms: settings.connection.unread_max_ms,
        connection_age_max_ms: settings.connection.age_max_ms,
        jobs_max: jobs.items_max as u32,
        job_part_rows_max: jobs.part_rows_max as u32,
        job_parts_max: jobs.shards_max,
        job_part_bytes_max: jobs.part_bytes_max as u64,
        job_line_bytes_max: jobs.line_bytes_max as u64,
        watch_sessions_max: watch.sessions_max as u32,
        watch_queries_max: watch.queries_max as u32,
        watch_window_ms_max: watch.window_ms_max,
        watch_frames_waiting_max: watch.frames_waiting_max as u32,
        watch_bytes_waiting_max: watch.bytes_waiting_max as u64,
        watch_window_frames_max: watch.window_frames_max as u32,
        watch_requests_waiting_max: watch.requests_waiting_max as u32,
        watch_events_kept_max: watch.events_kept_max as u32,
        watch_resume_ms: watch.resume_ms,
        watch_idle_ms: watch.idle_ms,
        watch_patience_ms: watch.patience_ms,
    }
}
