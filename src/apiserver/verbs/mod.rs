//! What each verb does, for every kind alike. What never lives here: a kind by name (that is hooks and admission).

pub mod facts;
