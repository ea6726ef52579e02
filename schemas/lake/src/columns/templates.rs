//! The `templates` table: the literal-free text of each statement fingerprint. The same pair may stand in
//! several files.

use bodycam_record::Fingerprint;

use super::rows::rows;

rows! {
    /// A literal-free statement.
    TemplateRow in "templates" {
        /// Its fingerprint: keyed digest of the text under the tenant key.
        fingerprint: Fingerprint,
        /// The text, without literals, aliases and unknown names.
        text: String,
    }
}
