//! The OpenAPI document, from the table of routes and the documents' own schemas.

use crate::routes::{Door, ROUTES, Route};
use crate::*;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathsBuilder, Ref,
    Required, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

/// The document of one door.
pub fn openapi(door: Door) -> OpenApi {
    let mut paths = PathsBuilder::new();
    for route in ROUTES.iter().filter(|r| r.door == door) {
        let method = if route.method == "GET" {
            HttpMethod::Get
        } else {
            HttpMethod::Post
        };
        paths = paths.path(route.path, PathItem::new(method, operation(route)));
    }
    let info = InfoBuilder::new()
        .title("Abbey")
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .paths(paths.build())
        .components(Some(components().build()))
        .build()
}

fn operation(route: &Route) -> utoipa::openapi::path::Operation {
    let json = |name: &str| {
        ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(name)))
            .build()
    };
    let mut ok = ResponseBuilder::new().description("Done");
    if let Some(answer) = route.answer {
        ok = ok.content("application/json", json(answer));
    }
    let problem = ResponseBuilder::new()
        .description("A refusal or failure")
        .content("application/problem+json", json("Problem"));
    let mut operation = OperationBuilder::new()
        .summary(Some(route.summary))
        .response("200", ok.build())
        .response("default", problem.build());
    if let Some(body) = route.body {
        let body = RequestBodyBuilder::new()
            .content("application/json", json(body))
            .required(Some(Required::True));
        operation = operation.request_body(Some(body.build()));
    }
    for segment in route
        .path
        .split('/')
        .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
    {
        let parameter = ParameterBuilder::new()
            .name(segment)
            .parameter_in(ParameterIn::Path)
            .required(Required::True);
        operation = operation.parameter(parameter.build());
    }
    operation.build()
}

fn components() -> ComponentsBuilder {
    let mut all = ComponentsBuilder::new();
    macro_rules! add {
        ($($name:ident)*) => {$(
            let mut inner = Vec::new();
            <$name as ToSchema>::schemas(&mut inner);
            all = all.schema(<$name as ToSchema>::name(), <$name as PartialSchema>::schema());
            for (name, schema) in inner { all = all.schema(name, schema); }
        )*};
    }
    add!(Problem FleetDoc AgentWhyDoc EffectiveDoc TaskDoc TasksDoc WhyDoc AddTask PlanDoc ManifestBody ManifestDoc ActivityDoc
        VerifyDoc BudgetDoc DoctorDoc SkillsDoc ServicesDoc LogDoc HouseDoc ExecBody CommandBody BackupBody BackupDoc SelfDoc OfferDoc
        ReportDoc ReportsDoc DelegateBody TreeDoc OrgDoc SchedulesDoc ScheduleDoc ApprovalBody UseBody DecideBody ApprovalsDoc ApprovalView DeclaredDoc RunWorkflowBody WorkflowsDoc WorkflowDoc EventBody HeardDoc ClaimBody ClaimDoc LeaseDoc RenewBody CompleteBody FailBody BlockBody NoteBody
        EntryDoc BundleDoc BundleBody RestoreBody RestoredDoc LeftoversDoc ToolsDoc ToolBody ToolDoc
        DocumentsDoc DocumentDoc DocumentBody QueueBody QueueDoc);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_document_is_in_the_components() {
        let document = serde_json::to_value(openapi(Door::Outside)).unwrap();
        assert_eq!(
            document["openapi"]
                .as_str()
                .unwrap()
                .split('.')
                .take(2)
                .collect::<Vec<_>>(),
            ["3", "1"]
        );
        for route in ROUTES {
            for name in [route.body, route.answer].into_iter().flatten() {
                assert!(
                    document["components"]["schemas"].get(name).is_some(),
                    "{name}"
                );
            }
        }
    }
}
