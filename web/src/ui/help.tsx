// What the keys do.
import { helpOpen } from '../keys';
import { tabs } from '../tabs';
import { Dialog } from './dialog';

const others: [string, string][] = [
  ['R', 'ask for everything anew'],
  ['/', 'go to the filter of this tab'],
  ['Ctrl K', 'find a tab, a node, a job, an act'],
  ['?', 'show these keys'],
  ['← →', 'on the time bar: earlier and later; Home its beginning, End live'],
  ['Esc', 'close what is open'],
];

export function Help() {
  return (
    <Dialog title="Keys" onClose={() => (helpOpen.value = false)}>
      <div class="keys">
        <dl>
          {tabs.map((tab) => (
            <div key={tab.id}><dt><kbd>{tab.key}</kbd></dt><dd>{tab.title}</dd></div>
          ))}
        </dl>
        <dl>
          {others.map(([key, what]) => (
            <div key={key}><dt><kbd>{key}</kbd></dt><dd>{what}</dd></div>
          ))}
        </dl>
      </div>
      <p class="dim">
        Add <code>?kiosk=1</code> to any address for a wall: nothing but the tab; <code>&amp;rotate=20</code> shows the tabs in turn. Without scripts: <a href="/plain" target="_self">/plain</a>. A badge:{' '}
        <a href="/badge.svg" target="_self">/badge.svg</a>, <a href="/badge.svg?show=queue" target="_self">its queue</a>.
      </p>
    </Dialog>
  );
}
