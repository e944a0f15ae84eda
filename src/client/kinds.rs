//! What the trait of objects asks of a kind of which only a part is read, said once.

/// The core group has no name.
macro_rules! api_version {
    ("" $version:literal) => {
        $version
    };
    ($group:literal $version:literal) => {
        concat!($group, "/", $version)
    };
}
pub(crate) use api_version;

/// `Type: "group" "version" "Kind" "plural" Scope;` for each; the type has a field `metadata: ObjectMeta`.
macro_rules! kinds {
    ($($type:ty: $group:tt $version:literal $kind:literal $plural:literal $scope:ident;)*) => {
        $(
            impl k8s_openapi::Resource for $type {
                const API_VERSION: &'static str = crate::kinds::api_version!($group $version);
                const GROUP: &'static str = $group;
                const KIND: &'static str = $kind;
                const VERSION: &'static str = $version;
                const URL_PATH_SEGMENT: &'static str = $plural;
                type Scope = k8s_openapi::$scope;
            }

            impl k8s_openapi::Metadata for $type {
                type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
                fn metadata(&self) -> &Self::Ty {
                    &self.metadata
                }
                fn metadata_mut(&mut self) -> &mut Self::Ty {
                    &mut self.metadata
                }
            }
        )*
    };
}
pub(crate) use kinds;
