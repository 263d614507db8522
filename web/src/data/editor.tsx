// The editor of queries, loaded when it is first shown.
//
// CodeMirror brings its styles with it, and the policy of the page lets no script put a style element into it. In a shadow tree it uses a
// style sheet object instead, which the policy allows: so the editor lives in one.
import { acceptCompletion, autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap } from '@codemirror/commands';
import { sql, SQLite, type SQLNamespace } from '@codemirror/lang-sql';
import { bracketMatching, HighlightStyle, syntaxHighlighting } from '@codemirror/language';
import { Compartment, EditorState, Prec } from '@codemirror/state';
import { drawSelection, EditorView, keymap, lineNumbers, placeholder } from '@codemirror/view';
import { tags } from '@lezer/highlight';
import { useEffect, useRef } from 'preact/hooks';
import type { SqlSchema } from './types';

interface Props {
  /** What was put in from outside last, an object of its own each time. What is typed is told and never comes back: it would come late. */
  chosen: { text: string };
  schema: SqlSchema | null;
  onChange: (text: string) => void;
  /** With what stands there, which may be newer than what was drawn. */
  onRun: (text: string) => void;
}

const look = EditorView.theme({
  '&': { color: 'var(--ink)', backgroundColor: 'var(--panel)', fontSize: '14px', borderRadius: 'var(--radius)' },
  '&.cm-focused': { outline: '2px solid var(--focus)', outlineOffset: '1px' },
  '.cm-scroller': { fontFamily: 'var(--mono)', lineHeight: '1.55', minHeight: '10.4rem', maxHeight: '22rem', overflow: 'auto' },
  '.cm-content': { caretColor: 'var(--ink)', padding: '.7rem 0' },
  '.cm-cursor': { borderLeftColor: 'var(--ink)', borderLeftWidth: '2px' },
  '.cm-gutters': { backgroundColor: 'var(--raised)', color: 'var(--dim)', border: 'none', borderRadius: 'var(--radius) 0 0 var(--radius)' },
  '.cm-selectionBackground, &.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground': { backgroundColor: 'var(--busy-soft)' },
  '.cm-placeholder': { color: 'var(--dim)' },
  '.cm-matchingBracket': { backgroundColor: 'var(--warn-soft) !important', color: 'inherit' },
  '.cm-tooltip': { backgroundColor: 'var(--panel)', border: '1px solid var(--line-strong)', borderRadius: '.5rem', boxShadow: 'var(--shadow)', color: 'var(--ink)' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul': { fontFamily: 'var(--mono)', fontSize: '13px', maxHeight: '16em' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul > li[aria-selected]': { backgroundColor: 'var(--hover)', color: 'var(--ink)' },
  '.cm-completionDetail': { color: 'var(--dim)', fontStyle: 'normal', marginLeft: '1em' },
});

/** A browser that types over something coloured keeps the colour as a style attribute, which the policy refuses loudly: so it is typed here. */
const typedOver = EditorView.domEventHandlers({
  beforeinput: (event, own) => {
    const { inputType, data } = event;
    if (inputType !== 'insertText' || !data || /^[()[\]{}'"`]$/.test(data) || own.composing || own.state.selection.main.empty) return false;
    event.preventDefault();
    own.dispatch({ ...own.state.replaceSelection(data), userEvent: 'input.type', scrollIntoView: true });
    return true;
  },
});

const colours = HighlightStyle.define([
  { tag: tags.keyword, color: 'var(--busy)', fontWeight: '600' },
  { tag: [tags.string, tags.special(tags.string)], color: 'var(--good)' },
  { tag: [tags.number, tags.bool, tags.null], color: 'var(--honey)' },
  { tag: tags.comment, color: 'var(--dim)' },
  { tag: [tags.typeName, tags.standard(tags.name)], color: 'var(--honey)' },
]);

function language(schema: SqlSchema | null) {
  const tables: Record<string, SQLNamespace> = {};
  for (const table of schema?.tables ?? []) {
    tables[table.name] = {
      self: { label: table.name, type: 'type', detail: table.meaning.slice(0, 60) },
      children: table.columns.map((column) => ({ label: column.name, type: 'property', detail: column.meaning.slice(0, 60) || column.type })),
    };
  }
  return sql({ dialect: SQLite, schema: tables, upperCaseKeywords: true });
}

export default function Editor(props: Props) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  const newest = useRef(props);
  newest.current = props;
  const speaks = useRef(new Compartment());
  useEffect(() => {
    const place = host.current;
    if (!place) return;
    const root = place.shadowRoot ?? place.attachShadow({ mode: 'open' });
    const run = { key: 'Mod-Enter', run: (own: EditorView) => { newest.current.onRun(own.state.doc.toString()); return true; } };
    const state = EditorState.create({
      doc: newest.current.chosen.text,
      extensions: [
        Prec.highest(keymap.of([run, { key: 'Tab', run: acceptCompletion }])),
        typedOver, lineNumbers(), history(), drawSelection(), bracketMatching(), closeBrackets(), EditorView.lineWrapping,
        autocompletion({ icons: false }),
        keymap.of([...closeBracketsKeymap, ...defaultKeymap, ...historyKeymap, ...completionKeymap]),
        speaks.current.of(language(newest.current.schema)),
        syntaxHighlighting(colours), look,
        placeholder('SELECT …'),
        EditorView.contentAttributes.of({ 'aria-label': 'Query in SQL; Ctrl-Enter runs it', spellcheck: 'false' }),
        EditorView.updateListener.of((update) => {
          if (!update.docChanged) return;
          newest.current.onChange(update.state.doc.toString());
        }),
      ],
    });
    const own = new EditorView({ state, parent: root, root });
    view.current = own;
    return () => {
      own.destroy();
      view.current = null;
    };
  }, []);
  useEffect(() => {
    view.current?.dispatch({ effects: speaks.current.reconfigure(language(props.schema)) });
  }, [props.schema]);
  useEffect(() => {
    const own = view.current;
    if (own && own.state.doc.toString() !== props.chosen.text) own.dispatch({ changes: { from: 0, to: own.state.doc.length, insert: props.chosen.text } });
  }, [props.chosen]);
  return <div ref={host} class="data-editor" data-keys="own" />;
}
