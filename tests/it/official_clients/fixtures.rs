//! Checks of the conformance suite that call something by a name of its own, which only a server made for the suite has.
//! Each line is one excuse, and a test fails when an excuse is not needed.

use self::Needs::{HeaderTool, Prompt, Resource, Tasks, Tool};

/// What the suite would have to find to make the check at all.
#[derive(Debug)]
#[expect(dead_code, reason = "the names are read by people, in the message of a failure too")]
pub(super) enum Needs {
    Tool(&'static str),
    Prompt(&'static str),
    Resource(&'static str),
    /// Tools of its own that become tasks.
    Tasks,
    /// A tool with `x-mcp-header` in its schema.
    HeaderTool,
}

pub(super) struct Excuse {
    pub(super) scenario: &'static str,
    /// The checks that fail; none named: all that fail in the scenario, one at least.
    pub(super) checks: &'static [&'static str],
    pub(super) needs: Needs,
}

const fn excuse(scenario: &'static str, checks: &'static [&'static str], needs: Needs) -> Excuse {
    Excuse { scenario, checks, needs }
}

/// In both revisions.
const COMMON: [Excuse; 16] = [
    excuse("completion-complete", &["completion-complete"], Prompt("test_prompt_with_arguments")),
    excuse(
        "json-schema-2020-12",
        &["json-schema-2020-12-tool-found"],
        Tool("json_schema_2020_12_tool"),
    ),
    excuse(
        "prompts-get-embedded-resource",
        &["prompts-get-embedded-resource"],
        Prompt("test_prompt_with_embedded_resource"),
    ),
    excuse("prompts-get-simple", &["prompts-get-simple"], Prompt("test_simple_prompt")),
    excuse(
        "prompts-get-with-args",
        &["prompts-get-with-args"],
        Prompt("test_prompt_with_arguments"),
    ),
    excuse("prompts-get-with-image", &["prompts-get-with-image"], Prompt("test_prompt_with_image")),
    excuse("resources-read-binary", &["resources-read-binary"], Resource("test://static-binary")),
    excuse("resources-read-text", &["resources-read-text"], Resource("test://static-text")),
    excuse(
        "resources-templates-read",
        &["resources-templates-read"],
        Resource("test://template/{id}/data"),
    ),
    excuse("tools-call-audio", &["tools-call-audio"], Tool("test_audio_content")),
    excuse(
        "tools-call-embedded-resource",
        &["tools-call-embedded-resource"],
        Tool("test_embedded_resource"),
    ),
    excuse("tools-call-error", &["tools-call-error"], Tool("test_error_handling")),
    excuse("tools-call-image", &["tools-call-image"], Tool("test_image_content")),
    excuse(
        "tools-call-mixed-content",
        &["tools-call-mixed-content"],
        Tool("test_multiple_content_types"),
    ),
    excuse("tools-call-simple-text", &["tools-call-simple-text"], Tool("test_simple_text")),
    excuse(
        "tools-call-with-progress",
        &["tools-call-with-progress"],
        Tool("test_tool_with_progress"),
    ),
];

const LEGACY: [Excuse; 7] = [
    excuse(
        "elicitation-sep1034-defaults",
        &["elicitation-sep1034-general"],
        Tool("test_elicitation_sep1034_defaults"),
    ),
    excuse(
        "elicitation-sep1330-enums",
        &["elicitation-sep1330-general"],
        Tool("test_elicitation_sep1330_enums"),
    ),
    excuse("resources-subscribe", &["resources-subscribe"], Resource("test://watched-resource")),
    excuse(
        "resources-unsubscribe",
        &["resources-unsubscribe"],
        Resource("test://watched-resource"),
    ),
    excuse("tools-call-elicitation", &["tools-call-elicitation"], Tool("test_elicitation")),
    excuse("tools-call-sampling", &["tools-call-sampling"], Tool("test_sampling")),
    excuse("tools-call-with-logging", &["tools-call-with-logging"], Tool("test_tool_with_logging")),
];

const MODERN: [Excuse; 26] = [
    excuse(
        "http-custom-header-server-validation",
        &[
            "sep-2243-server-no-xmcp-tool",
            "sep-2243-server-decode-base64",
            "sep-2243-server-validate-param-match",
            "sep-2243-server-reject-invalid-param-chars",
            "sep-2243-server-reject-param-mismatch",
        ],
        HeaderTool,
    ),
    excuse(
        "input-required-result-basic-elicitation",
        &["sep-2322-elicitation-incomplete"],
        Tool("test_input_required_result_elicitation"),
    ),
    excuse(
        "input-required-result-basic-list-roots",
        &["sep-2322-list-roots-incomplete"],
        Tool("test_input_required_result_list_roots"),
    ),
    excuse(
        "input-required-result-basic-sampling",
        &["sep-2322-sampling-incomplete"],
        Tool("test_input_required_result_sampling"),
    ),
    excuse(
        "input-required-result-capability-check",
        &["sep-2322-respect-client-capabilities"],
        Tool("test_input_required_result_capabilities"),
    ),
    excuse(
        "input-required-result-ignore-extra-params",
        &["sep-2322-ignore-unexpected-params"],
        Tool("test_input_required_result_elicitation"),
    ),
    excuse(
        "input-required-result-missing-input-response",
        &["sep-2322-missing-response-rerequests"],
        Tool("test_input_required_result_elicitation"),
    ),
    excuse(
        "input-required-result-multi-round",
        &["sep-2322-multi-round-r1"],
        Tool("test_input_required_result_multi_round"),
    ),
    excuse(
        "input-required-result-multiple-input-requests",
        &["sep-2322-multiple-inputs-incomplete"],
        Tool("test_input_required_result_multiple_inputs"),
    ),
    excuse(
        "input-required-result-non-tool-request",
        &["sep-2322-non-tool-incomplete"],
        Prompt("test_input_required_result_prompt"),
    ),
    excuse(
        "input-required-result-request-state",
        &["sep-2322-request-state-incomplete"],
        Tool("test_input_required_result_request_state"),
    ),
    excuse(
        "input-required-result-result-type",
        &["sep-2322-result-type-included"],
        Tool("test_input_required_result_elicitation"),
    ),
    excuse(
        "input-required-result-tampered-state",
        &["sep-2322-reject-tampered-state"],
        Tool("test_input_required_result_tampered_state"),
    ),
    excuse(
        "server-stateless",
        &["sep-2575-server-rejects-undeclared-capability", "sep-2575-missing-capability-http-400"],
        Tool("test_missing_capability"),
    ),
    excuse(
        "server-stateless",
        &["sep-2575-http-server-no-independent-requests-on-stream"],
        Tool("test_streaming_elicitation"),
    ),
    excuse(
        "server-stateless",
        &["sep-2575-server-no-log-without-loglevel"],
        Tool("test_logging_tool"),
    ),
    excuse(
        "server-stateless",
        &[
            "sep-2575-server-sends-prompts-list-changed-on-subscription",
            "sep-2575-server-sends-tools-list-changed-on-subscription",
        ],
        Tool("test_trigger_tool_change"),
    ),
    excuse("tasks-capability-negotiation", &[], Tasks),
    excuse("tasks-dispatch-and-envelope", &[], Tasks),
    excuse("tasks-lifecycle", &[], Tasks),
    excuse("tasks-mrtr-composition", &[], Tasks),
    excuse("tasks-mrtr-input", &[], Tasks),
    excuse("tasks-request-headers", &[], Tasks),
    excuse("tasks-request-state-removal", &[], Tasks),
    excuse("tasks-required-task-error", &[], Tasks),
    excuse("tasks-wire-fields", &[], Tasks),
];

pub(super) fn excuses(revision: &str) -> impl Iterator<Item = &'static Excuse> {
    let own: &[Excuse] = if revision < "2026" { &LEGACY } else { &MODERN };
    COMMON.iter().chain(own)
}
