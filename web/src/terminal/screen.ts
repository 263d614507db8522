// A terminal on the page: xterm.js, under the policy that everything else here keeps.
//
// xterm writes its styles into style elements and style attributes, which the policy of the page refuses to scripts, and rightly so. It is
// given elements that fill a style sheet object instead, and its spans set a style through the object model: both are
// allowed, since nothing that a program prints gets there as text of a style sheet. Never done here: talking to a node.
import { FitAddon } from '@xterm/addon-fit';
import { Terminal, type ITheme } from '@xterm/xterm';
import { effect } from '@preact/signals';
import { dark } from '../theme';

/** An element that stands where a style element would, and hands its text to a style sheet of the document. */
function styleStandIn(own: Document): HTMLElement {
  const sheet = new CSSStyleSheet();
  own.adoptedStyleSheets = [...own.adoptedStyleSheets, sheet];
  const element = Document.prototype.createElement.call(own, 'span');
  element.hidden = true;
  let text = '';
  Object.defineProperty(element, 'textContent', {
    get: () => text,
    set: (next: string) => {
      text = next;
      sheet.replaceSync(next);
    },
  });
  element.remove = () => {
    own.adoptedStyleSheets = own.adoptedStyleSheets.filter((one) => one !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
}

/** Does something meanwhile every style element that is made is a stand-in. xterm makes all of its own while it opens. */
function withoutStyleElements(then: () => void): void {
  const own = document;
  own.createElement = ((tag: string, options?: ElementCreationOptions) =>
    tag === 'style' ? styleStandIn(own) : Document.prototype.createElement.call(own, tag, options)) as Document['createElement'];
  try {
    then();
  } finally {
    // What was put over it goes, what the browser brings shows again.
    Reflect.deleteProperty(own, 'createElement');
  }
}

/** Styles of spans as text become styles of spans as properties; what is drawn is the same. */
function allowSpanStyles(): void {
  const own = HTMLSpanElement.prototype;
  if (Object.hasOwn(own, 'setAttribute')) return;
  own.setAttribute = function (this: HTMLSpanElement, name: string, value: string) {
    if (name === 'style') this.style.cssText = value;
    else Element.prototype.setAttribute.call(this, name, value);
  };
}

function colours(): ITheme {
  const look = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return { background: look('--panel'), foreground: look('--ink'), cursor: look('--honey'), cursorAccent: look('--panel'), selectionBackground: `${look('--busy')}55` };
}

export interface Screen {
  terminal: Terminal;
  fit: () => void;
  close: () => void;
}

/** Opens a terminal in an element. Of a given size, or as large as the element. */
export function openScreen(place: HTMLElement, size: { columns: number; rows: number } | null): Screen {
  allowSpanStyles();
  const terminal = new Terminal({
    fontFamily: "ui-monospace, 'Cascadia Mono', 'DejaVu Sans Mono', monospace",
    fontSize: 14,
    scrollback: 10_000,
    // Programs choose colours for a dark screen.
    minimumContrastRatio: 4.5,
    screenReaderMode: false,
    cursorBlink: !matchMedia('(prefers-reduced-motion: reduce)').matches,
    ...(size ? { cols: size.columns, rows: size.rows, disableStdin: true } : {}),
  });
  const fitting = new FitAddon();
  terminal.loadAddon(fitting);
  withoutStyleElements(() => terminal.open(place));
  terminal.textarea?.setAttribute('aria-label', size ? 'Recorded terminal' : 'Terminal');
  const themed = effect(() => {
    void dark.value;
    terminal.options.theme = colours();
  });
  const fit = () => {
    if (size === null) fitting.fit();
  };
  const resized = new ResizeObserver(fit);
  resized.observe(place);
  fit();
  return {
    terminal,
    fit,
    close: () => {
      resized.disconnect();
      themed();
      terminal.dispose();
    },
  };
}
