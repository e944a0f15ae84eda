//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may say yes to which signer's requests.
//! Source: `plugin/pkg/admission/certificates`, `pkg/registry/certificates/…/certauthorization`.

use types::status::Status;

use super::{Operation, Request};
use crate::auth::{Attributes, Target, certificate_request};
use crate::hooks::json::{get, same, text};

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

pub fn validate(request: &Request) -> Result<(), Status> {
    match (request.operation, request.subresource) {
        (Operation::Create, "") => subject(request),
        (Operation::Update, "approval") => may(request, "approve"),
        (Operation::Update, "status") => {
            let status = |object| get(object, "status");
            let (Some(new), Some(old)) = (request.object.as_deref().map(status), request.old.map(status)) else {
                return Ok(());
            };
            let kept = ["certificate", "conditions"].into_iter().all(|field| same(get(new, field), get(old, field)));
            if kept { Ok(()) } else { may(request, "sign") }
        }
        _ => Ok(()),
    }
}

/// The user may `verb` what the signer's name in the stored request stands for, or all of the signer's domain.
fn may(request: &Request, verb: &str) -> Result<(), Status> {
    let Some(old) = request.old else { return Ok(()) };
    let signer = text(get(old, "spec"), "signerName");
    let domain = signer.split_once('/').map(|(domain, _)| format!("{domain}/*"));
    let allowed = [Some(signer), domain.as_deref()].into_iter().flatten().any(|name| {
        let target = Target::Resource {
            group: "certificates.k8s.io",
            version: "*",
            resource: "signers",
            subresource: "",
            namespace: "",
            name,
            fields: None,
        };
        let attributes = Attributes { identity: request.user, verb, target };
        request.authorizer.is_some_and(|a| a.authorize(&attributes, request.view).is_ok())
    });
    if allowed {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(Status::forbidden(request.kind, request.name, &why))
}

/// Nobody becomes a master through a certificate that is approved as a client's.
fn subject(request: &Request) -> Result<(), Status> {
    let spec = request.object.as_deref().map(|object| get(object, "spec"));
    let Some(spec) = spec.filter(|spec| text(spec, "signerName") == CLIENT_SIGNER) else { return Ok(()) };
    let refuse = |why: &str| Err(Status::forbidden(request.kind, request.name, why));
    let unread = |why: String| Status::forbidden(request.kind, request.name, &format!("failed to parse CSR: {why}"));
    let der = certificate_request::der(text(spec, "request")).map_err(unread)?;
    let csr = certificate_request::parse(&der).map_err(unread)?;
    let mut organizations = csr.certification_request_info.subject.iter_organization();
    if organizations.any(|o| o.as_str().is_ok_and(|o| o == MASTERS)) {
        return refuse(&format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"));
    }
    Ok(())
}
